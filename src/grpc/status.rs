//! Turns an error into a gRPC status. containerd acts on the code; the message is for the operator.

use tonic::{Code, Status};

use crate::snapshotter::Error;

/// The status of a failed call, with the whole message.
pub fn status(error: &Error) -> Status {
    Status::new(code(error), error.to_string())
}

fn code(error: &Error) -> Code {
    if error.is_full() {
        return Code::ResourceExhausted;
    }
    match error {
        Error::NotFound { .. } | Error::ParentNotFound { .. } => Code::NotFound,
        Error::AlreadyExists { .. } => Code::AlreadyExists,
        // containerd's own snapshotters use this code for a parent that is not committed.
        Error::ParentNotCommitted { .. } | Error::Invalid { .. } => Code::InvalidArgument,
        _ if error.is_wrong_size() => Code::InvalidArgument,
        Error::NotActive { .. } | Error::HasChildren { .. } | Error::Rebase { .. } => {
            Code::FailedPrecondition
        }
        // The host or the configuration has to change first.
        Error::Template { .. } => Code::FailedPrecondition,
        Error::NoSpace { .. } => Code::ResourceExhausted,
        Error::ParentChanged { .. } => Code::Unavailable,
        Error::Incomplete { .. } | Error::ErrorsNoted { .. } => Code::DataLoss,
        Error::Fs { source, .. } if source.is_damage() => Code::DataLoss,
        Error::Fs { source, .. } if source.is_refusal() => Code::FailedPrecondition,
        Error::Undo { source, .. } => code(source),
        Error::TooLarge { .. }
        | Error::Pool { .. }
        | Error::Fs { .. }
        | Error::Block { .. }
        | Error::Store(_) => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{FsError, FsType, NotedErrors};

    #[test]
    fn each_refusal_has_the_code_that_containerd_looks_for_and_names_the_snapshot() {
        let key = || "default/1/a".to_string();
        let cases = [
            (Error::NotFound { key: key() }, Code::NotFound),
            (Error::ParentNotFound { parent: key() }, Code::NotFound),
            (Error::AlreadyExists { key: key() }, Code::AlreadyExists),
            (Error::ParentNotCommitted { parent: key() }, Code::InvalidArgument),
            (Error::NotActive { key: key(), kind: "a view", what: "" }, Code::FailedPrecondition),
            (Error::Incomplete { key: key(), pool: "p".into() }, Code::DataLoss),
            (
                Error::ErrorsNoted { key: key(), pool: "p".into(), errors: NotedErrors::default() },
                Code::DataLoss,
            ),
            (
                Error::Fs {
                    subject: key().as_str().into(),
                    step: "cannot be committed",
                    source: Box::new(FsError::PanicMask {
                        device: "d".into(),
                        fs_type: FsType::Xfs,
                        mask: "1".into(),
                    }),
                },
                Code::FailedPrecondition,
            ),
            (Error::HasChildren { key: key(), child: "b".into() }, Code::FailedPrecondition),
            (Error::Rebase { key: key() }, Code::FailedPrecondition),
            (Error::ParentChanged { key: key(), parent: "p".into() }, Code::Unavailable),
        ];
        for (error, expected) in cases {
            let status = status(&error);
            assert_eq!(status.code(), expected, "{error}");
            assert!(status.message().contains("default/1/a"), "{}", status.message());
        }
    }
}
