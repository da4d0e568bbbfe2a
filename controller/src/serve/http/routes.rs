//! What is answered to a request.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame},
    header::{
        ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use tokio::sync::{mpsc, oneshot};
use url::form_urlencoded;

use super::settings::Access;
use crate::{
    client::Error,
    serve::{
        Life,
        exporter::{
            Discovery, Exporter, Scrape, Wanted, Whom,
            text::{self, Page},
        },
    },
};

/// Bytes that are sent at a time.
const PIECE: usize = 32 * 1024;

/// Pieces that wait for who has asked.
const PIECES: usize = 2;

/// A service that has worked, and then did not for so long, is not ready any more. Longer than any waits between two rounds.
const RECENT: Duration = Duration::from_secs(180);

const PLAIN: &str = "text/plain; charset=utf-8";

const INDEX: &str = "\
ctl serve

/metrics  figures for Prometheus; ?host=web* for some hosts, ?shard=0&shards=8 for a part of them
/sd       the hosts for Prometheus' http_sd_configs; ?port=9100, ?by=address, and as above
/healthz  whether this process runs
/readyz   whether all of its services work
";

/// What is sent: a text, or pieces that are still made.
type Content = Either<Full<Bytes>, Pieces>;

/// A reply.
pub type Reply = Response<Content>;

/// Pieces of a reply as they are made. An error breaks the connection off, so that half a page is not taken for a whole one.
#[derive(Debug)]
pub struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

/// Where pieces go.
type Sink = mpsc::Sender<io::Result<Bytes>>;

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Answers a request.
pub async fn answer<B>(
    request: Request<B>,
    access: Arc<Access>,
    exporter: Arc<Exporter>,
    life: Life,
) -> Result<Reply, Infallible> {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(reply);
    }
    // Who watches over this process need not be known: both tell nothing of the fleet.
    let reply = match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "it runs\n"),
        "/readyz" => readiness(&exporter, &life).await,
        _ if !access.admits(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes)) => {
            let mut reply = plain(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN\n");
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            reply
        }
        "/" => plain(StatusCode::OK, INDEX),
        "/metrics" if method == Method::HEAD => typed(StatusCode::OK, text::CONTENT_TYPE, ""),
        "/metrics" => metrics(request.uri().query().unwrap_or_default(), exporter).await,
        "/sd" if method == Method::HEAD => typed(StatusCode::OK, "application/json", ""),
        "/sd" => discovery(request.uri().query().unwrap_or_default(), exporter).await,
        _ => plain(StatusCode::NOT_FOUND, "there is no such page: see /\n"),
    };
    Ok(reply)
}

async fn metrics(query: &str, exporter: Arc<Exporter>) -> Reply {
    let pairs = pairs(query);
    let whom = match Whom::read(borrowed(&pairs)) {
        Ok(whom) => whom,
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let (sink, pieces) = mpsc::channel(PIECES);
    let (told, has_begun) = oneshot::channel();
    let source = Arc::clone(&exporter);
    tokio::spawn(async move {
        let begin = async {
            let mut lent = source.connect().await?;
            let scrape = Scrape::begin(&source, lent.fleet(), &whom).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((lent, scrape))
        };
        let Ok((mut lent, mut scrape)) = begin.await else { return };
        if told.send(()).is_err() {
            return source.give_back(lent);
        }
        let mut page = Page::default();
        loop {
            match scrape.next(lent.fleet()).await {
                Ok(Some(batch)) => page.add(&batch),
                Ok(None) => break,
                Err(error) => return fail(&sink, &error).await,
            }
            if page.text.len() >= PIECE && !send(&sink, &mut page.text).await {
                break;
            }
        }
        source.give_back(lent);
        send(&sink, &mut page.text).await;
    });
    if has_begun.await.is_ok() {
        return streamed(text::CONTENT_TYPE, pieces);
    }
    // The figures of this process are told all the same. That Redis is away is one of them.
    let mut page = Page::default();
    exporter.without_redis().iter().for_each(|batch| page.add(batch));
    typed(StatusCode::OK, text::CONTENT_TYPE, page.text)
}

async fn discovery(query: &str, exporter: Arc<Exporter>) -> Reply {
    let pairs = pairs(query);
    let wanted = Whom::read(borrowed(&pairs)).and_then(|whom| Ok((whom, Wanted::read(borrowed(&pairs))?)));
    let (whom, wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let (sink, pieces) = mpsc::channel(PIECES);
    let (told, has_begun) = oneshot::channel();
    tokio::spawn(async move {
        let begin = async {
            let mut lent = exporter.connect().await?;
            let discovery = Discovery::begin(lent.fleet(), &whom, wanted).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((lent, discovery))
        };
        let (mut lent, mut discovery) = match begin.await {
            Ok(both) => both,
            Err(error) => return drop(told.send(Err(error))),
        };
        if told.send(Ok(())).is_err() {
            return exporter.give_back(lent);
        }
        loop {
            match discovery.next(lent.fleet()).await {
                Ok(Some(mut text)) => {
                    if !send(&sink, &mut text).await {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => return fail(&sink, &error).await,
            }
        }
        exporter.give_back(lent);
    });
    // Without a list, Prometheus keeps the prior one.
    match has_begun.await {
        Ok(Ok(())) => streamed("application/json", pieces),
        Ok(Err(error)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "it broke down\n"),
    }
}

/// Whether every service is ready, has worked recently, and Redis replies.
async fn readiness(exporter: &Exporter, life: &Life) -> Reply {
    if life.is_stopped() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "it stops\n");
    }
    for (name, vital) in life.health().vitals() {
        if !vital.is_ready {
            return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{name}: not ready yet\n"));
        }
        if let Some(idle) = vital.worked.map(|worked| worked.elapsed()).filter(|idle| *idle > RECENT) {
            let idle = idle.as_secs();
            return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{name}: has not worked for {idle} s\n"));
        }
    }
    match exporter.connect().await {
        Ok(lent) => {
            exporter.give_back(lent);
            plain(StatusCode::OK, "ready\n")
        }
        Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("Redis: {error}\n")),
    }
}

/// Sends what there is of a text, which is empty then. `false`: nobody wants it any more.
async fn send(sink: &Sink, text: &mut String) -> bool {
    // The text goes on with the room that it had.
    let room = text.capacity();
    let piece = std::mem::replace(text, String::with_capacity(room));
    sink.send(Ok(piece.into())).await.is_ok()
}

/// Breaks a reply off.
async fn fail(sink: &Sink, error: &Error) {
    // Who has gone need not know.
    let _ = sink.send(Err(io::Error::other(error.to_string()))).await;
}

fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn borrowed(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    typed(status, PLAIN, text)
}

fn typed(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Reply {
    reply(status, kind, Either::Left(Full::new(text.into())))
}

fn streamed(kind: &'static str, pieces: mpsc::Receiver<io::Result<Bytes>>) -> Reply {
    reply(StatusCode::OK, kind, Either::Right(Pieces(pieces)))
}

fn reply(status: StatusCode, kind: &'static str, content: Content) -> Reply {
    let mut reply = Response::new(content);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}
