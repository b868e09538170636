//! A small HTTP/1.1 server of the tests' own: it hands requests to a function and keeps them byte for byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Handler = dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync;

/// A server until it is dropped.
pub struct Served {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Request<Bytes>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    pub async fn new(handler: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Request<Bytes>>>> = Arc::default();
        let (kept, handler): (_, Arc<Handler>) = (heard.clone(), Arc::new(handler));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, handler.clone(), kept.clone()));
            }
        });
        Self { address, heard, task }
    }

    /// The requests since the last call.
    pub fn heard(&self) -> Vec<Request<Bytes>> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

async fn connection(mut stream: TcpStream, handler: Arc<Handler>, heard: Arc<Mutex<Vec<Request<Bytes>>>>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if buffer.len() > 64 * 1024 || !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
        let mut request = parse_head(&head);
        let length: usize = request
            .headers()
            .get("content-length")
            .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        while buffer.len() < end + 4 + length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        *request.body_mut() = Bytes::copy_from_slice(&buffer[end + 4..end + 4 + length]);
        buffer.drain(..end + 4 + length);
        let answer = handler(&request);
        let close = request
            .headers()
            .get("connection")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        heard.lock().unwrap().push(request);
        let mut out = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
        for (name, value) in answer.headers() {
            out.extend_from_slice(format!("{name}: ").as_bytes());
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if answer.status() != 204 {
            out.extend_from_slice(format!("content-length: {}\r\n", answer.body().len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(answer.body());
        if stream.write_all(&out).await.is_err() || close {
            return;
        }
    }
}

/// A request without its body.
pub fn parse_head(head: &str) -> Request<Bytes> {
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let mut request = Request::builder()
        .method(first.next().unwrap())
        .uri(first.next().unwrap());
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        request = request.header(name, value.trim());
    }
    request.body(Bytes::new()).unwrap()
}
