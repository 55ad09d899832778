//! Serves the figures over HTTP: GET /metrics, and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::CONTENT_TYPE;
use hyper::server::conn::Http;
use hyper::service::service_fn;
use hyper::{Body, Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::scrape::{self, Scraper};
use super::Metrics;

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// How long one may take, request and answer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the figures cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("metrics_address {address}: cannot listen: {source}; choose another address, or leave the key out")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("serving the metrics failed: {0}")]
    Serve(#[source] io::Error),
}

/// Takes the address, so that one that is in use shows at start.
pub fn listen(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|source| MetricsError::Listen { address, source })
}

/// Serves until dropped. So many connections at a time; others wait in the listener's queue.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) -> Result<(), MetricsError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(MetricsError::Serve)?;
    let scraper = {
        let metrics = Arc::clone(&metrics);
        Scraper::new(move || metrics.look_up(), scrape::LIMIT)
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The peer is gone again, or there are no descriptors: the next one may have more luck.
            Err(error) => {
                tracing::warn!(%error, "a connection for monitoring was not taken");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (metrics, scraper) = (Arc::clone(&metrics), Arc::clone(&scraper));
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| {
                answer(request, Arc::clone(&metrics), Arc::clone(&scraper))
            });
            let connection = Http::new()
                .http1_only(true)
                .http1_keep_alive(false)
                .serve_connection(stream, service);
            // Whoever asks for nothing, or does not read the answer, is not served for ever.
            let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
        });
    }
}

async fn answer(
    request: Request<Body>,
    metrics: Arc<Metrics>,
    scraper: Arc<Scraper>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "the figures are at /metrics\n"));
    }
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "the figures can be read (GET) only\n"));
    }
    let looked_up = scraper.text().await;
    let text = metrics.text(looked_up.as_ref().map(|(text, age)| (&**text, *age)));
    let Ok(text) = text else {
        tracing::error!(?text, "no metrics for this scrape");
        return Ok(plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the figures could not be put together; see the log\n",
        ));
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
