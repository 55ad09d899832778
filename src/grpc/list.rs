//! List: sends the snapshots that match a filter, page by page.

use std::borrow::Cow;

use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::convert::api_info;
use super::status::status;
use crate::filter::{Fields, FilterSet};
use crate::snapshotter::{Info, Snapshotter};
use containerd_snapshots::Info as ApiInfo;

/// How many snapshots are read from the database at a time. The next page is read when this one has
/// been sent.
pub const PAGE: usize = 256;

/// Sends every snapshot that matches, until the caller stops listening. Returns how the call ended.
pub fn send_list(
    snapshotter: &Snapshotter,
    filters: &FilterSet,
    sender: &mpsc::Sender<Result<ApiInfo, Status>>,
) -> Code {
    let mut after: Option<String> = None;
    loop {
        let page = match snapshotter.page(after.as_deref(), PAGE) {
            Ok(page) => page,
            Err(error) => {
                let status = status(&error);
                let code = status.code();
                let _ = sender.blocking_send(Err(status));
                return code;
            }
        };
        let Some(last) = page.last() else { return Code::Ok };
        after = Some(last.key.clone());
        for info in page {
            if filters.matches(&Filtered(&info))
                && sender.blocking_send(Ok(api_info(info))).is_err()
            {
                return Code::Cancelled;
            }
        }
    }
}

/// A snapshot with the fields that containerd's filters name.
struct Filtered<'a>(&'a Info);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let info = self.0;
        match path {
            // containerd uses the first part of these and ignores the rest.
            ["kind", ..] => Some(info.kind.as_str().into()),
            ["name", ..] => Some(info.key.as_str().into()),
            ["parent", ..] => Some(info.parent.as_deref().unwrap_or_default().into()),
            ["labels", label @ ..] => {
                info.labels.get(&label.join(".")).map(|value| value.as_str().into())
            }
            _ => None,
        }
    }
}
