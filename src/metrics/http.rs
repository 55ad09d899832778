//! Serves the figures over HTTP: GET /metrics, and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use hyper::header::CONTENT_TYPE;
use hyper::service::{make_service_fn, service_fn};
use hyper::{Body, Method, Request, Response, Server, StatusCode};

use super::Metrics;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the figures cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("metrics_address {address}: cannot listen: {source}; choose another address, or leave the key out")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("serving the metrics failed: {0}")]
    Serve(#[from] hyper::Error),
}

/// Takes the address, so that one that is in use shows at start.
pub fn listen(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    let listener = TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|source| MetricsError::Listen { address, source })
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) -> Result<(), MetricsError> {
    let service = make_service_fn(|_| {
        let metrics = Arc::clone(&metrics);
        async move { Ok::<_, Infallible>(service_fn(move |request| answer(request, Arc::clone(&metrics)))) }
    });
    Ok(Server::from_tcp(listener)?.serve(service).await?)
}

async fn answer(request: Request<Body>, metrics: Arc<Metrics>) -> Result<Response<Body>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "the figures are at /metrics\n"));
    }
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "the figures can be read (GET) only\n"));
    }
    // It asks the kernel, the database and /proc.
    let text = tokio::task::spawn_blocking(move || metrics.text()).await;
    let Ok(Ok(text)) = text else {
        tracing::error!(?text, "no metrics for this scrape");
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "the figures could not be put together; see the log\n"));
    };
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, TEXT.parse().expect("a header's value"));
    Ok(response)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}
