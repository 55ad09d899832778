//! Serves the figures over HTTP. The only request is GET /metrics.

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

use super::figures::Metrics;
use super::scrape::{self, Scraper};

/// How many connections are served at the same time.
const CONNECTIONS: usize = 16;
/// How long a connection can take, for request and answer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the figures cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error(
        "metrics_address {address}: cannot listen: {source}; choose another address, or leave the \
         key out"
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error("serving the metrics failed: {0}")]
    Serve(#[source] io::Error),
}

/// Listens on the address, so that an address in use is an error at the start.
pub fn listen(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|source| MetricsError::Listen { address, source })
}

/// Serves until it is dropped. Connections beyond the limit wait in the listener's queue.
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
            // The client has closed it again, or no file descriptor is free. The next may work.
            Err(error) => {
                tracing::warn!(%error, "a connection to metrics_address was not accepted");
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
            // A client that sends no request, or does not read the answer, is disconnected.
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
        tracing::error!(?text, "the figures for a scrape cannot be put into text");
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
