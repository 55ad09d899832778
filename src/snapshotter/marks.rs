//! What containerd's keys and labels tell about the caller, and how a call shows that containerd
//! uses a capability of the plugin.
//!
//! containerd takes the `capabilities` of a proxy plugin from its own configuration and does not
//! ask the plugin. Each capability changes the calls, and most leave a mark in them:
//!
//! | capability | since | what containerd does | mark | answer |
//! |---|---|---|---|---|
//! | `rebase` | 2.2 | unpacks layers without their parent and names it with Commit | from 2.3 on a label at Prepare; the field `parent` of Commit | refused |
//! | `remap-ids` | 1.7 | passes id mappings in labels, and expects files to show mapped ids | the labels (also without the capability) | idmapped mounts |
//! | `only-remap-ids` | 2.0 | refuses id mappings by itself, unless `remap-ids` is set too | none | |
//!
//! (client/snapshotter_opts_unix.go, core/unpack/unpacker.go, core/metadata/snapshot.go.) Without
//! `remap-ids` containerd makes a snapshot of the image, changes the owner of each file in it, and
//! prepares the container's snapshot on that one with the same labels. The ids must not be mapped a
//! second time then.
//!
//! The unpacker passes all annotations of a layer below `containerd.io/snapshot/` on as labels. The
//! author of the image chose those.

use super::error::Error;
use super::labels::Labels;
use crate::store::Ownership;

/// The chain id that a layer is unpacked for; only the unpacker sets it.
const UNPACK_REF: &str = "containerd.io/snapshot.ref";
/// The prefix of the client's key of a layer that is being unpacked (`snapshots.UnpackKeyPrefix`).
const UNPACK_KEY: &str = "extract-";
/// The chain id of the layer below.
const PARENT_CHAIN_ID: &str = "containerd.io/snapshot/parent-chain-id";
pub const UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
pub const GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";
/// When containerd has changed the owners of the files, the key is the name with this suffix.
const REMAP_KEY: &str = "-remap";

/// Whether a layer of an image is unpacked into the snapshot. Its labels then come from the image
/// and not from the operator.
pub fn is_unpack(key: &str, labels: &Labels) -> bool {
    let last = key.rsplit('/').next().unwrap_or(key);
    labels.contains_key(UNPACK_REF)
        || last.starts_with(UNPACK_KEY)
        || client_key(key).starts_with(UNPACK_KEY)
}

/// The key that containerd's client uses. containerd's metadata turns it into
/// `NAMESPACE/NUMBER/KEY` (core/metadata, `createKey`).
fn client_key(key: &str) -> &str {
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(number), Some(rest)) if number.parse::<u64>().is_ok() => rest,
        _ => key,
    }
}

/// Refuses a layer that is to be unpacked without the layers below it.
pub fn refuse_rebase(key: &str, parent: Option<&str>, labels: &Labels) -> Result<(), Error> {
    match labels.get(PARENT_CHAIN_ID) {
        Some(_) if parent.is_none() => Err(Error::Rebase { key: key.into() }),
        _ => Ok(()),
    }
}

/// Whether containerd has changed the owners of all files in what is committed as `name`.
pub fn is_remapped(name: &str, key: &str) -> bool {
    client_key(key).strip_suffix(REMAP_KEY).is_some_and(|rest| rest == client_key(name))
}

/// How the owners of files appear in a new snapshot with these labels. `parent` is the ownership of
/// its parent.
pub fn ownership(
    key: &str,
    labels: &Labels,
    parent: Option<&Ownership>,
) -> Result<Ownership, Error> {
    let (uids, gids) = match (labels.get(UID_MAPPING), labels.get(GID_MAPPING)) {
        (None, None) => return Ok(Ownership::Stored),
        // A layer is stored with the ids of the image.
        _ if is_unpack(key, labels) => {
            tracing::warn!(
                key,
                "the image asks for mapped ids in its annotations; they are ignored"
            );
            return Ok(Ownership::Stored);
        }
        (Some(uids), Some(gids)) => (uids, gids),
        (uids, _) => {
            let (there, missing) = if uids.is_some() {
                (UID_MAPPING, GID_MAPPING)
            } else {
                (GID_MAPPING, UID_MAPPING)
            };
            let why = format!("ids are mapped with both or not at all; {missing} is missing");
            return Err(Error::invalid(format!("label {there} by itself"), why));
        }
    };
    check_mapping(UID_MAPPING, uids)?;
    check_mapping(GID_MAPPING, gids)?;
    Ok(match parent {
        Some(Ownership::Shifted) => Ownership::Stored,
        _ => Ownership::Mapped { uids: uids.clone(), gids: gids.clone() },
    })
}

/// Checks for the form that containerd's mounts expect: `CONTAINER-ID:HOST-ID:COUNT`, several
/// separated by commas (core/mount/mount_idmapped_linux.go).
fn check_mapping(label: &str, text: &str) -> Result<(), Error> {
    let range = |part: &str| {
        let numbers: Vec<u32> = part.split(':').map_while(|number| number.parse().ok()).collect();
        part.split(':').count() == 3 && matches!(numbers[..], [_, _, count] if count > 0)
    };
    if text.split(',').all(range) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("label {label}={text:?}"),
        "it takes CONTAINER-ID:HOST-ID:COUNT, several separated by commas",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    const MAPPED: [(&str, &str); 2] =
        [(UID_MAPPING, "0:100000:65536"), (GID_MAPPING, "0:200000:1000,1000:0:1")];

    #[test]
    fn an_unpack_is_known_by_its_key_or_its_label_in_every_form_that_containerd_has() {
        let none = labels(&[]);
        for key in [
            "default/12/extract-123456789-AbC_ sha256:00",
            "k8s.io/7/extract-1-x sha256:ab",
            "extract-1-x sha256:ab",
            "a/b/extract-1",
            "ns/4/extract-1/with a slash",
        ] {
            assert!(is_unpack(key, &none), "{key}");
        }
        for key in ["default/12/box", "default/12/my-extract-1", "extractor", "default/extract/1"] {
            assert!(!is_unpack(key, &none), "{key}");
        }
        assert!(is_unpack(
            "default/12/box",
            &labels(&[("containerd.io/snapshot.ref", "sha256:ab")])
        ));
    }

    #[test]
    fn a_layer_without_the_parent_that_it_has_is_refused_with_the_setting_to_change() {
        let marked = labels(&[("containerd.io/snapshot/parent-chain-id", "sha256:ab")]);
        let error = refuse_rebase("k", None, &marked).unwrap_err().to_string();
        for part in ["\"k\"", "rebase", "capabilities", "proxy_plugins"] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        refuse_rebase("k", Some("p"), &marked).unwrap();
        refuse_rebase("k", None, &labels(&[])).unwrap();
    }

    #[test]
    fn ids_are_mapped_once_by_the_mount_or_by_containerd() {
        let mapped = ownership("a", &labels(&MAPPED), Some(&Ownership::Stored)).unwrap();
        assert_eq!(
            mapped,
            Ownership::Mapped { uids: MAPPED[0].1.into(), gids: MAPPED[1].1.into() }
        );
        assert_eq!(ownership("a", &labels(&MAPPED), None).unwrap(), mapped);
        assert_eq!(
            ownership("a", &labels(&MAPPED), Some(&Ownership::Shifted)).unwrap(),
            Ownership::Stored
        );
        assert_eq!(
            ownership("d/1/extract-1 c", &labels(&MAPPED), None).unwrap(),
            Ownership::Stored
        );
        assert_eq!(ownership("a", &labels(&[]), None).unwrap(), Ownership::Stored);
    }

    #[test]
    fn a_mapping_that_containerds_mount_would_not_understand_is_refused_and_named() {
        for bad in ["0", "0:1", "0:1:0", "0:1:2:3", "a:1:2", "0:1:2,", "-1:0:5", "0:0:4294967296"] {
            let error = ownership("a", &labels(&[(UID_MAPPING, bad), MAPPED[1]]), None)
                .unwrap_err()
                .to_string();
            assert!(error.contains(UID_MAPPING) && error.contains(bad), "{error}");
        }
        let error = ownership("a", &labels(&MAPPED[1..]), None).unwrap_err().to_string();
        assert!(error.contains("uidmapping is missing"), "{error}");
    }

    #[test]
    fn what_containerd_has_remapped_is_known_by_key_and_name() {
        assert!(is_remapped("default/9/sha256:ab", "default/8/sha256:ab-remap"));
        assert!(is_remapped(
            "default/9/sha256:ab-1000-1000",
            "default/8/sha256:ab-1000-1000-remap"
        ));
        assert!(!is_remapped("default/9/sha256:ab", "default/8/sha256:cd-remap"));
        assert!(!is_remapped("default/9/image", "default/8/box"));
    }
}
