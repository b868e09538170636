use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crm_core::Result;
use crm_core::capability::WebhookRequest;
use crm_core::http::{AllowEntry, HttpClient, HttpConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The method.
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// The headers in order, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Heard {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query's fields, decoded, in order.
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect()
    }

    /// The body's fields, when it is a form, decoded, in order.
    pub fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The request byte for byte as HTTP/1.1, as recordings have it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// More headers than those about the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// JSON with this status.
    pub fn json(status: u16, body: impl fmt::Display) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What goes wrong with one request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// The vendor takes it, and never answers.
    AcceptThenHang,
    /// The vendor takes it, and the connection breaks before the answer.
    AcceptThenDrop,
    /// The vendor takes it, and what comes back is no answer of its own.
    AcceptThenGarble,
    /// The vendor takes it, and its server says that it failed.
    AcceptThenFail,
    /// The connection breaks before the vendor has looked at it.
    Drop,
    /// This answer instead; nothing is taken.
    Answer(Reply),
}

type Answering = Arc<dyn Fn(&Heard) -> Reply + Send + Sync>;

struct Inner {
    heard: Mutex<Vec<Heard>>,
    faults: Mutex<VecDeque<Fault>>,
    answer: Answering,
}

/// A small HTTP/1.1 server on loopback: keeps what it hears, answers as it is told, and misbehaves on demand. Stops when
/// dropped.
pub struct VendorServer {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

impl VendorServer {
    /// Listens on a free port. `answer` sees each request that no fault keeps from it.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Unavailable`] when there is no port.
    pub async fn start(answer: impl Fn(&Heard) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let failed = |e: std::io::Error| {
            crm_core::Error::new(crm_core::ErrorKind::Unavailable, "no port to listen on").source(e)
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let inner = Arc::new(Inner {
            heard: Mutex::default(),
            faults: Mutex::default(),
            answer: Arc::new(answer),
        });
        let serving = inner.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let inner = serving.clone();
                open.spawn(async move {
                    let _ = converse(stream, &inner).await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, inner, task })
    }

    /// Where it listens.
    pub fn url(&self) -> Url {
        format!("http://{}", self.address)
            .parse()
            .expect("an address is a URL")
    }

    /// Settings with which [`crm_core::http::HttpClient`] may call it.
    pub fn http(&self) -> HttpConfig {
        HttpConfig {
            allow: vec![AllowEntry::address(self.address)],
            ..HttpConfig::default()
        }
    }

    /// Everything it heard, in order.
    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.inner.heard).clone()
    }

    /// What goes wrong with the next request; called several times, with the next ones, in order.
    pub fn fault(&self, fault: Fault) {
        lock(&self.inner.faults).push_back(fault);
    }
}

impl Drop for VendorServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for VendorServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VendorServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Makes a callback as the vendor does: sends the request to its URL, and gives the status of the answer. Send it twice,
/// or several in another order, to be as unreliable as vendors are.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use crm_channels::testkit::{Reply, VendorServer, deliver};
/// use crm_core::capability::WebhookRequest;
/// use crm_core::http::HttpClient;
///
/// // The host's own server, here one that says yes to everything.
/// let host = VendorServer::start(|_| Reply::json(200, "{}")).await.unwrap();
/// let client = HttpClient::new(host.http()).unwrap();
/// let callback = WebhookRequest::post(host.url().join("/hooks/vendor?message=7").unwrap(), "status=delivered");
/// assert_eq!(deliver(&client, &callback).await.unwrap(), 200);
/// assert_eq!(host.heard()[0].target, "/hooks/vendor?message=7");
/// # });
/// ```
///
/// # Errors
/// Those of [`HttpClient::send`].
pub async fn deliver(client: &HttpClient, callback: &WebhookRequest) -> Result<u16> {
    let mut request = ::http::Request::builder()
        .method(callback.method.as_str())
        .uri(callback.url.as_str());
    for (name, value) in &callback.headers {
        request = request.header(name, value);
    }
    let request = request
        .body(callback.body.clone().into())
        .map_err(|e| crm_core::Error::invalid("the callback is no request").source(e))?;
    Ok(client.send(request).await?.status.as_u16())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(mut stream: TcpStream, inner: &Inner) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(heard) = next(&mut stream, &mut buffer).await? {
        lock(&inner.heard).push(heard.clone());
        let fault = lock(&inner.faults).pop_front();
        let reply = match fault {
            None => (inner.answer)(&heard),
            Some(Fault::Answer(reply)) => reply,
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::AcceptThenDrop) => {
                (inner.answer)(&heard);
                return Ok(());
            }
            Some(Fault::AcceptThenHang) => {
                (inner.answer)(&heard);
                std::future::pending::<()>().await;
                return Ok(());
            }
            Some(Fault::AcceptThenGarble) => {
                let status = (inner.answer)(&heard).status;
                Reply {
                    status,
                    headers: Vec::new(),
                    body: b"<html>\xff\x00 it works!".to_vec(),
                }
            }
            Some(Fault::AcceptThenFail) => {
                (inner.answer)(&heard);
                Reply {
                    status: 502,
                    headers: Vec::new(),
                    body: b"<html>Bad Gateway</html>".to_vec(),
                }
            }
        };
        let mut out = format!(
            "HTTP/1.1 {} X\r\ncontent-length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str("\r\n");
        stream.write_all(out.as_bytes()).await?;
        stream.write_all(&reply.body).await?;
    }
    Ok(())
}

/// The next request of a connection.
async fn next(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Heard>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let lengths: BTreeMap<&str, &str> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let length = lengths
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0usize);
    while buffer.len() < end + 4 + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let heard = Heard {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: headers.clone(),
        body: buffer[end + 4..end + 4 + length].to_vec(),
    };
    buffer.drain(..end + 4 + length);
    Ok(Some(heard))
}
