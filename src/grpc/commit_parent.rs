//! Reads a field of Commit that the crate containerd-snapshots does not know: the parent.
//!
//! containerd 2.2 and later name the parent in Commit when they have unpacked a layer without the
//! layers below it. If the field were ignored, as unknown fields are, the committed layer would
//! lack everything below it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::body::BoxBody;
use tonic::codegen::{http, Body as _, Service as TowerService};
use tonic::server::NamedService;
use tonic::transport::Body;
use tonic::Status;

use super::service::Service;

const COMMIT: &str = "/containerd.services.snapshots.v1.Snapshots/Commit";
/// Numbers of the fields of `CommitSnapshotRequest` (api/services/snapshots/v1/snapshots.proto).
const KEY: u64 = 3;
const PARENT: u64 = 5;
/// Bytes before a gRPC message: one flag for compression, which is not used here, and the length in
/// four bytes.
const FRAME: usize = 5;
/// The longest request in bytes, which is also tonic's limit.
const BODY_MOST: usize = 4 << 20;

/// A service that checks the parent of each Commit before it passes the request on to `inner`.
#[derive(Debug, Clone)]
pub struct CommitParent<S> {
    inner: S,
    service: Service,
}

impl<S> CommitParent<S> {
    pub fn new(inner: S, service: Service) -> Self {
        CommitParent { inner, service }
    }
}

impl<S: NamedService> NamedService for CommitParent<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<http::Response<BoxBody>, Infallible>;

impl<S> TowerService<http::Request<Body>> for CommitParent<S>
where
    S: TowerService<http::Request<Body>, Response = http::Response<BoxBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<BoxBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != COMMIT {
            return Box::pin(self.inner.call(request));
        }
        let (mut inner, service, started) =
            (self.inner.clone(), self.service.clone(), Instant::now());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match read(body).await {
                Ok(body) => body,
                Err(status) => return Ok(status.to_http()),
            };
            if let Some((key, parent)) = named(&body) {
                let stands = service.snapshotter.must_stand_on(&key, &parent);
                if stands.is_err() {
                    let refused = service.answer("Commit", &key, started, stands);
                    return Ok(refused.map_or_else(Status::to_http, |()| {
                        http::Response::new(tonic::body::empty_body())
                    }));
                }
            }
            inner.call(http::Request::from_parts(parts, Body::from(body))).await
        })
    }
}

async fn read(mut body: Body) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        bytes.extend_from_slice(
            &part.map_err(|error| Status::internal(format!("the request ended early: {error}")))?,
        );
        if bytes.len() > BODY_MOST {
            return Err(Status::out_of_range(format!("a request of more than {BODY_MOST} bytes")));
        }
    }
    Ok(bytes)
}

/// Key and parent of a Commit that names a parent. `None` also for a message that cannot be
/// decoded: the service behind this one reports that.
fn named(body: &[u8]) -> Option<(String, String)> {
    let (mut key, mut parent) = (String::new(), String::new());
    let mut rest = body.get(FRAME..)?;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => drop(varint(&mut rest)?),
            1 => drop(take(&mut rest, 8)?),
            2 => {
                let length = varint(&mut rest)?;
                let value = take(&mut rest, usize::try_from(length).ok()?)?;
                match tag >> 3 {
                    KEY => key = String::from_utf8(value.to_vec()).ok()?,
                    PARENT => parent = String::from_utf8(value.to_vec()).ok()?,
                    _ => {}
                }
            }
            5 => drop(take(&mut rest, 4)?),
            _ => return None,
        }
    }
    (!parent.is_empty()).then_some((key, parent))
}

/// Reads an integer of protobuf: seven bits in each byte, the lowest first; the top bit is set in
/// all bytes but the last.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(text.len()).unwrap()];
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn framed(fields: &[Vec<u8>]) -> Vec<u8> {
        let message = fields.concat();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], &message].concat()
    }

    #[test]
    fn a_commit_that_names_a_parent_is_told_from_one_that_does_not() {
        let usual = [field(1, "devmapper"), field(2, "name"), field(3, "key"), field(4, "label")];
        assert_eq!(named(&framed(&usual)), None);
        let with = [&usual[..], &[field(5, "parent")]].concat();
        assert_eq!(named(&framed(&with)), Some(("key".into(), "parent".into())));
        let empty = [&usual[..], &[field(5, "")]].concat();
        assert_eq!(named(&framed(&empty)), None);
        let odd = [
            vec![6 << 3, 0x96, 1],
            field(5, "p"),
            vec![7 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0],
            field(3, "k"),
        ];
        assert_eq!(named(&framed(&odd)), Some(("k".into(), "p".into())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            named(&bytes);
        }
    }
}
