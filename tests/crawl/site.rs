//! A site on loopback that keeps a log of who asked for what, and when.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use open_crm::{Clock as _, SystemClock, Timestamp};

/// One request, from its first line read to its answer written.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub(crate) path: String,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
}

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Hit>>>,
}

impl Site {
    /// `pages` pages, each with one person and links to two others; each answer takes `work`.
    pub(crate) fn start(pages: usize, work: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Hit>>> = Arc::default();
        let shared = log.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = shared.clone();
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let mut stream = stream;
                    let _ = stream.set_nodelay(true);
                    while let Some(Ok(first)) = lines.next() {
                        let began = SystemClock.now();
                        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                        while lines
                            .next()
                            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                        {
                        }
                        std::thread::sleep(work);
                        let answer = page(&path, pages);
                        // In the log before it is answered: who dies afterwards was here.
                        let ended = SystemClock.now();
                        log.lock().unwrap().push(Hit { path, began, ended });
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, log }
    }

    /// Requests for pages.
    pub(crate) fn pages(&self) -> Vec<Hit> {
        self.log()
            .into_iter()
            .filter(|hit| hit.path != "/robots.txt")
            .collect()
    }

    /// All requests.
    pub(crate) fn log(&self) -> Vec<Hit> {
        self.log.lock().unwrap().clone()
    }
}

fn page(path: &str, pages: usize) -> String {
    let number = path
        .strip_prefix('/')
        .and_then(|n| n.parse::<usize>().ok())
        .filter(|n| *n < pages);
    let (status, body) = match number {
        None => ("404 Not Found", String::new()),
        Some(n) => {
            let links: String = [2 * n + 1, 2 * n + 2, n / 2]
                .iter()
                .filter(|to| **to < pages)
                .map(|to| format!("<a href=\"/{to}\">{to}</a>"))
                .collect();
            (
                "200 OK",
                format!("<div class=customer><h2>Person {n}</h2><p>p{n}@example.com</p></div>{links}"),
            )
        }
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
