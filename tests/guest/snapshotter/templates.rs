//! The template for base layers cannot be made: all other calls go on.
// guest: --mem 2G

use crate::lab::{refused, Daemon};
use containerd_snapshots::tonic::Code;
use kit::{used_blocks, with_mounted};

const MIB: usize = 1 << 20;

/// A program of this name in a directory for administrators' programs that hides the real one,
/// until this is dropped.
struct InPlaceOf(&'static str);

impl InPlaceOf {
    /// `None` for no program at all.
    fn new(name: &'static str, script: Option<&str>) -> InPlaceOf {
        let sbin = std::path::Path::new("/usr/sbin");
        std::fs::rename(sbin.join(name), sbin.join(format!("{name}.away"))).unwrap();
        if let Some(script) = script {
            std::fs::write(sbin.join(name), script).unwrap();
            std::fs::set_permissions(
                sbin.join(name),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )
            .unwrap();
        }
        InPlaceOf(name)
    }
}

impl Drop for InPlaceOf {
    fn drop(&mut self) {
        let sbin = std::path::Path::new("/usr/sbin");
        std::fs::rename(sbin.join(format!("{}.away", self.0)), sbin.join(self.0)).unwrap();
    }
}

#[test]
fn a_start_on_a_full_pool_with_another_base_size_serves_and_makes_its_template_once_there_is_space()
{
    let mut d = Daemon::start_with("fullstart", "data_size = \"128MiB\"");
    d.committed("base", "");
    let mount = d.prepare("filler", "base").unwrap().remove(0);
    with_mounted(&mount, |root| drop(std::fs::write(root.join("file"), vec![0xa5; 160 * MIB])));
    for config in ["base_image_size = \"11GiB\"", "fs_options = [\"-m\", \"1\"]"] {
        d.stop("TERM");
        let (checked, said) = {
            d.configure("fullstart", &format!("data_size = \"128MiB\"\n{config}"));
            d.begin();
            d.stop("TERM");
            d.command(&["check", "--repair"])
        };
        assert!(checked, "{said}");
        d.begin();
        let needs = d.prepare("new", "");
        refused(needs, Code::ResourceExhausted, &["full"]);
        assert!(
            d.log().contains("ERROR") && d.log().contains("layers without a parent are refused"),
            "{}",
            d.log()
        );
        assert!(!d.log().contains("Input/output error"), "{}", d.log());
        // What needs no template is served.
        d.usage("base").unwrap();
        d.view("view", "base").unwrap();
        d.remove("view").unwrap();
    }
    d.remove("filler").unwrap();
    d.cleanup();
    d.prepare("new", "").unwrap();
    d.commit("new-base", "new").unwrap();
    d.prepare("child", "new-base").unwrap();
}

#[test]
fn without_mkfs_everything_is_served_that_has_a_parent_and_the_rest_as_soon_as_it_is_there() {
    let mut d = Daemon::start("nomkfs");
    d.committed("base", "");
    let before = d.usage("base").unwrap();
    d.stop("TERM");
    d.configure("nomkfs", "base_image_size = \"11GiB\"");
    let away = InPlaceOf::new("mke2fs", None);
    d.begin();
    assert!(d.log().contains("mke2fs is not installed"), "{}", d.log());
    refused(
        d.prepare("a", ""),
        Code::FailedPrecondition,
        &["11.0 GiB", "mke2fs is not installed", "e2fsprogs"],
    );
    refused(d.view("a", ""), Code::FailedPrecondition, &["mke2fs"]);
    // Usage needs no template and makes none: what an empty layer takes is the same as before.
    assert_eq!(d.usage("base").unwrap(), before);
    d.prepare("b", "base").unwrap();
    assert_eq!(d.usage("b").unwrap().inodes, 0);
    drop(away);
    d.prepare("a", "").unwrap();
}

#[test]
fn usage_of_a_base_layer_makes_no_template() {
    let mut d = Daemon::start("usagetemplate");
    d.committed("base", "");
    d.stop("TERM");
    d.configure("usagetemplate", "base_image_size = \"12GiB\"");
    let broken = InPlaceOf::new("mke2fs", Some("#!/bin/sh\necho broken >&2\nexit 1\n"));
    d.begin();
    drop(broken);
    let before = used_blocks("usagetemplate-pool");
    d.usage("base").unwrap();
    assert_eq!(used_blocks("usagetemplate-pool"), before, "a template was made");
    d.prepare("a", "").unwrap();
    assert!(used_blocks("usagetemplate-pool") > before);
}

#[test]
fn options_that_mkfs_can_never_take_refuse_the_start_and_those_that_it_refuses_show_in_log_and_answers(
) {
    let mut d = Daemon::start("badoptions");
    d.committed("base", "");
    d.stop("TERM");
    d.configure("badoptions", "fs_options = [\"/dev/sda\"]");
    let said = d.start_is_refused();
    assert!(said.contains("/dev/sda") && said.contains("is not an mkfs option"), "{said}");
    d.configure("badoptions", "fs_options = [\"-O\", \"no_such_feature\"]");
    d.begin();
    assert!(d.log().contains("no_such_feature"), "{}", d.log());
    refused(d.prepare("a", ""), Code::FailedPrecondition, &["mke2fs", "no_such_feature"]);
    d.prepare("b", "base").unwrap();
}
