//! What is answered to a request.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{
        ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use tokio::sync::oneshot;
use url::form_urlencoded;

use super::{
    pieces::{self, Pieces},
    settings::Access,
};
use crate::serve::{
    Life,
    exporter::{
        Discovery, Exporter, Refusal, Scrape, Wanted, Whom,
        text::{self, Page},
    },
};

/// Bytes that are sent at a time.
const PIECE: usize = 32 * 1024;

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
    let is_known = access.admits(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes));
    // Who watches over this process need not be known: strangers are told nothing else.
    let reply = match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "it runs\n"),
        "/readyz" => match readiness(&exporter, &life).await {
            Ok(()) => plain(StatusCode::OK, "ready\n"),
            Err(why) if is_known => plain(StatusCode::SERVICE_UNAVAILABLE, why),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        },
        _ if !is_known => {
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
    let (sink, pieces) = pieces::reply();
    let (told, has_begun) = oneshot::channel();
    let source = Arc::clone(&exporter);
    tokio::spawn(async move {
        let begin = async {
            let mut lent = source.connect().await?;
            let scrape = Scrape::begin(&source, lent.fleet(), &whom).await;
            Ok::<_, Refusal>((lent, scrape.map_err(|error| Refusal::Away(error.to_string()))?))
        };
        let (mut lent, mut scrape) = match begin.await {
            Ok(both) => both,
            Err(refusal) => return drop(told.send(Err(refusal))),
        };
        if told.send(Ok(())).is_err() {
            return source.give_back(lent);
        }
        let mut page = Page::default();
        loop {
            match scrape.next(lent.fleet()).await {
                Ok(Some(batch)) => page.add(&batch),
                Ok(None) => break,
                Err(_) => return,
            }
            if page.text.len() >= PIECE && !sink.send(&mut page.text).await {
                return source.give_back(lent);
            }
        }
        source.give_back(lent);
        if sink.send(&mut page.text).await {
            sink.end();
        }
    });
    match has_begun.await {
        Ok(Ok(())) => streamed(text::CONTENT_TYPE, pieces),
        // Figures of hosts that are missing would be taken for hosts that are gone.
        Ok(Err(refusal @ Refusal::Busy)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")),
        // The figures of this process are told all the same. That Redis is away is one of them.
        Ok(Err(Refusal::Away(_))) => {
            let mut page = Page::default();
            exporter.without_redis().iter().for_each(|batch| page.add(batch));
            typed(StatusCode::OK, text::CONTENT_TYPE, page.text)
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "it broke down\n"),
    }
}

async fn discovery(query: &str, exporter: Arc<Exporter>) -> Reply {
    let pairs = pairs(query);
    let wanted = Whom::read(borrowed(&pairs)).and_then(|whom| Ok((whom, Wanted::read(borrowed(&pairs))?)));
    let (whom, wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let (sink, pieces) = pieces::reply();
    let (told, has_begun) = oneshot::channel();
    tokio::spawn(async move {
        let begin = async {
            let mut lent = exporter.connect().await?;
            let discovery = Discovery::begin(lent.fleet(), &whom, wanted).await;
            Ok::<_, Refusal>((lent, discovery.map_err(|error| Refusal::Away(error.to_string()))?))
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
                    if !sink.send(&mut text).await {
                        return exporter.give_back(lent);
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        exporter.give_back(lent);
        sink.end();
    });
    // Without a list, Prometheus keeps the prior one.
    match has_begun.await {
        Ok(Ok(())) => streamed("application/json", pieces),
        Ok(Err(error)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "it broke down\n"),
    }
}

/// Whether every service is ready, has worked recently, and Redis replies; else what is wrong.
async fn readiness(exporter: &Exporter, life: &Life) -> Result<(), String> {
    if life.is_stopped() {
        return Err("it stops\n".into());
    }
    for (name, vital) in life.health().vitals() {
        if !vital.is_ready {
            return Err(format!("{name}: not ready yet\n"));
        }
        if let Some(idle) = vital.worked.map(|worked| worked.elapsed()).filter(|idle| *idle > RECENT) {
            return Err(format!("{name}: has not worked for {} s\n", idle.as_secs()));
        }
    }
    match exporter.connect().await {
        Ok(lent) => exporter.give_back(lent),
        // That many scrape at once says nothing of Redis.
        Err(Refusal::Busy) => {}
        Err(refusal) => return Err(format!("{refusal}\n")),
    }
    Ok(())
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

fn streamed(kind: &'static str, pieces: Pieces) -> Reply {
    reply(StatusCode::OK, kind, Either::Right(pieces))
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
