//! Converts between the types of the snapshotter and those of containerd's interface.

use std::collections::HashMap;

use containerd_snapshots::api::types::Mount as ApiMount;
use containerd_snapshots::{Info as ApiInfo, Kind as ApiKind};
use tonic::Status;

use crate::snapshotter::{FieldUpdate, Info, Labels, Mount};
use crate::store::Kind;

/// Reads containerd's field mask. An empty mask means all that can be changed, which is the labels.
/// A path can be named more than once, and `labels` together with a single label; each has its
/// usual meaning.
pub fn updates(
    labels: HashMap<String, String>,
    paths: Vec<String>,
) -> Result<Vec<FieldUpdate>, Status> {
    let labels = Labels::from_iter(labels);
    if paths.is_empty() {
        return Ok(vec![FieldUpdate::Labels(labels)]);
    }
    let update = |path: String| match path.strip_prefix("labels.") {
        Some("") => Err(Status::invalid_argument("the field path \"labels.\" names no label")),
        Some(label) => {
            Ok(FieldUpdate::Label(label.into(), labels.get(label).cloned().unwrap_or_default()))
        }
        None if path == "labels" => Ok(FieldUpdate::Labels(labels.clone())),
        None => Err(Status::invalid_argument(format!(
            "field {path:?} of a snapshot cannot be updated; labels and labels.NAME can"
        ))),
    };
    paths.into_iter().map(update).collect()
}

pub fn api_info(info: Info) -> ApiInfo {
    ApiInfo {
        kind: match info.kind {
            Kind::View => ApiKind::View,
            Kind::Active => ApiKind::Active,
            Kind::Committed => ApiKind::Committed,
        },
        name: info.key,
        parent: info.parent.unwrap_or_default(),
        labels: info.labels.into_iter().collect(),
        created_at: info.created_at,
        updated_at: info.updated_at,
    }
}

pub fn api_mounts(mounts: Vec<Mount>) -> Vec<ApiMount> {
    let api = |mount: Mount| ApiMount {
        r#type: mount.fs_type,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(api).collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_path_that_is_named_twice_or_beside_labels_says_the_same_each_time() {
        let labels = HashMap::from([
            ("a".to_string(), "1".to_string()),
            ("a.b/c".to_string(), "2".to_string()),
        ]);
        let all = FieldUpdate::Labels(labels.clone().into_iter().collect());
        let a = FieldUpdate::Label("a".into(), "1".into());
        let dotted = FieldUpdate::Label("a.b/c".into(), "2".into());
        for (named, expected) in [
            (&["labels.a", "labels.a"][..], vec![a.clone(), a.clone()]),
            (&["labels.a", "labels"], vec![a.clone(), all.clone()]),
            (&["labels", "labels.a"], vec![all.clone(), a.clone()]),
            (&["labels", "labels"], vec![all.clone(), all]),
            (&["labels.a.b/c", "labels.a", "labels.a.b/c"], vec![dotted.clone(), a, dotted]),
        ] {
            assert_eq!(updates(labels.clone(), paths(named)).unwrap(), expected, "{named:?}");
        }
    }

    #[test]
    fn only_labels_can_be_updated_and_the_refusal_names_the_field() {
        let labels = HashMap::from([("a.b/c".to_string(), "1".to_string())]);
        assert_eq!(
            updates(labels.clone(), paths(&["labels.a.b/c"])).unwrap(),
            [FieldUpdate::Label("a.b/c".into(), "1".into())]
        );
        assert_eq!(
            updates(labels.clone(), paths(&["labels.gone"])).unwrap(),
            [FieldUpdate::Label("gone".into(), String::new())]
        );
        assert_eq!(
            updates(labels.clone(), vec![]).unwrap(),
            [FieldUpdate::Labels(labels.clone().into_iter().collect())]
        );
        for immutable in ["name", "parent", "kind", "created_at", "nonsense", "labels.", ""] {
            let status = updates(labels.clone(), paths(&[immutable])).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(&format!("{immutable:?}")), "{}", status.message());
        }
    }
}
