//! The spider takes URLs from pages: whatever a page says, only public addresses are dialled. The oracle is a listener on
//! loopback that counts connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use crm_core::Result;
use crm_core::http::Resolver;
use crm_crawl::spider::{Output, Page, Spider, WebCollector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

use crate::run;
use crate::site::{Answer, Site};

/// Counts connections and answers each with a page.
struct Canary {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Canary {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = [0; 2048];
                    let _ = stream.read(&mut buffer).await;
                    let body = "HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(body.as_bytes()).await;
                });
            }
        });
        Self { address, connections }
    }
}

/// Follows everything, wherever it leads: what holds is the guard alone.
#[derive(Debug)]
struct Everywhere(Vec<Url>);

impl Spider for Everywhere {
    fn name(&self) -> &str {
        "everywhere"
    }
    fn seeds(&self) -> Vec<Url> {
        self.0.clone()
    }
    fn allows(&self, _: &Url) -> bool {
        true
    }
    fn parse(&self, page: &Page, output: &mut Output) {
        let links = crm_crawl::spider::Selector::parse("a[href]").unwrap();
        for link in page.document().select(&links) {
            output.follow_if(page.link(link.attr("href").unwrap_or_default()));
        }
    }
}

trait FollowIf {
    fn follow_if(&mut self, url: Option<Url>);
}

impl FollowIf for Output {
    fn follow_if(&mut self, url: Option<Url>) {
        if let Some(url) = url {
            self.follow(url);
        }
    }
}

/// Answers names with what a test says, and remembers what was asked.
#[derive(Debug, Default)]
struct Stub {
    answers: Vec<(&'static str, Vec<Vec<&'static str>>)>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Resolver for Stub {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|other| *other == host).count();
        asked.push(host.to_owned());
        let answers = self
            .answers
            .iter()
            .find(|(name, _)| *name == host)
            .map(|(_, answers)| answers);
        let answer = answers.map(|answers| &answers[before.min(answers.len() - 1)]);
        Ok(answer
            .into_iter()
            .flatten()
            .map(|ip| ip.parse().unwrap())
            .collect())
    }
}

/// Ways to write a forbidden address; `PORT` is the canary's.
const FORBIDDEN: &[&str] = &[
    // Loopback in every form a URL may have.
    "http://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.1:PORT/",
    "http://2130706433:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://017700000001:PORT/",
    "http://127.0.0.2:PORT/",
    "http://127.255.255.254:PORT/",
    "http://0.0.0.0:PORT/",
    "http://0:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1:PORT/",
    "http://127\u{3002}0\u{3002}0\u{3002}1:PORT/",
    "http://[::1]:PORT/",
    "http://[::]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[64:ff9b::7f00:1]:PORT/",
    "http://[64:ff9b:1::7f00:1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2001:0:7f00:1::]:PORT/",
    // The same port's neighbours: everything that is not public, at ports 80 and 443 as well.
    "http://0.1.2.3/",
    "http://10.0.0.1/",
    "http://10.255.255.255:443/",
    "http://100.64.0.1/",
    "http://100.127.255.254/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.254/",
    "http://192.0.0.1/",
    "http://192.0.2.1/",
    "http://192.88.99.1/",
    "http://192.168.0.1/",
    "http://198.18.0.1/",
    "http://198.19.255.254/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.255/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[ff02::1]/",
    "http://[100::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://[fec0::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:10.0.0.1]/",
    // Names.
    "http://loop.test:PORT/",
    "http://loop.test.:PORT/",
    "http://LOOP.test:PORT/",
    "http://loop6.test:PORT/",
    "http://mapped.test:PORT/",
    "http://meta.test/",
    "http://private.test/",
    "http://localhost:PORT/",
    "http://localhost./",
    // Tricks: the parser decides, and there is one.
    "http://good.test@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@good.test/",
    "http://127.0.0.1:PORT\\@good.test/",
    "http:\\\\127.0.0.1:PORT\\",
    "http:///127.0.0.1:PORT/",
    "ht\ntp://127.0.\t0.1:PORT/",
    "//127.0.0.1:PORT/",
    // Public addresses at other ports.
    "http://93.184.216.34:22/",
    "http://93.184.216.34:6379/",
    // No http at all.
    "file:///etc/passwd",
    "gopher://127.0.0.1:PORT/_GET",
    "ftp://127.0.0.1:PORT/",
    "data:text/html,<a href=http://127.0.0.1:PORT/>",
    "javascript:location='http://127.0.0.1:PORT/'",
    "mailto:x@example.com?body=http://127.0.0.1:PORT/",
];

fn stub() -> Stub {
    Stub {
        answers: vec![
            ("loop.test", vec![vec!["127.0.0.1"]]),
            ("loop.test.", vec![vec!["127.0.0.1"]]),
            ("loop6.test", vec![vec!["::1"]]),
            ("mapped.test", vec![vec!["::ffff:127.0.0.1"]]),
            ("meta.test", vec![vec!["169.254.169.254", "fd00:ec2::254"]]),
            ("private.test", vec![vec!["10.0.0.1", "192.168.1.1"]]),
            ("localhost", vec![vec!["127.0.0.1", "::1"]]),
        ],
        asked: Mutex::default(),
    }
}

/// How a forbidden URL gets to the spider.
const WAYS: [&str; 5] = ["seed", "link", "redirect", "robots redirect", "sitemap"];

/// Crawls with one forbidden URL; `open` adds the canary to what is allowed.
async fn visit(way: &str, target: &str, canary: &Canary, open: bool) {
    let host = target.to_owned();
    let way_of_site = way.to_owned();
    let site = Site::start(move |path, _| match (path, way_of_site.as_str()) {
        ("/robots.txt", "robots redirect") => Answer::redirect_raw(&host),
        ("/robots.txt", _) => Answer::status(404),
        ("/", "redirect") => Answer::redirect_raw(&host),
        ("/", "sitemap") => Answer::html("<p>"),
        ("/s.xml", _) => Answer::xml(format!(
            "<urlset><url><loc>{}</loc></url></urlset>",
            host.replace('&', "&amp;")
        )),
        ("/", _) => Answer::html(format!("<a href=\"{host}\">x</a>")),
        _ => Answer::status(404),
    })
    .await;
    let mut config = site.spec("/").crawl;
    config.retries = 0;
    config.http.connect_timeout = std::time::Duration::from_millis(500);
    config.http.total_timeout = std::time::Duration::from_secs(1);
    if open {
        config
            .http
            .allow
            .push(format!("127.0.0.0/8:{}", canary.address.port()).parse().unwrap());
    }
    let seed = if way == "seed" {
        match site.url("/").parse::<Url>().unwrap().join(target) {
            Ok(url) => url,
            Err(_) => return,
        }
    } else {
        site.url("/").parse().unwrap()
    };
    if way == "sitemap" {
        config.sitemaps = vec![site.url("/s.xml").parse().unwrap()];
    }
    let spider = Arc::new(Everywhere(vec![seed]));
    let collector = WebCollector::with_resolver(spider, config, Arc::new(stub())).unwrap();
    let _ = run(&collector, None).await;
}

/// SSRF-1, 2, 3, 5 and 6, F15, bad inputs 14 to 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_leads_to_a_forbidden_address() {
    assert!(FORBIDDEN.len() >= 70, "{}", FORBIDDEN.len());
    let canary = Canary::start().await;
    for way in WAYS {
        for target in FORBIDDEN {
            let target = target.replace("PORT", &canary.address.port().to_string());
            visit(way, &target, &canary, false).await;
            assert_eq!(canary.connections.load(Ordering::SeqCst), 0, "{way}: {target}");
        }
    }
    // Negative control: with the guard open for loopback each way does lead there. So the canary does count.
    for way in WAYS {
        let before = canary.connections.load(Ordering::SeqCst);
        let target = format!("http://loop.test:{}/", canary.address.port());
        visit(way, &target, &canary, true).await;
        assert!(canary.connections.load(Ordering::SeqCst) > before, "{way}");
    }
}

/// SSRF-4, F15, bad input 17.
#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_dialled() {
    let canary = Canary::start().await;
    let port = canary.address.port();
    let site = Site::start(|_, _| Answer::status(404)).await;
    // First an address that may be dialled (127.0.0.2 stands for a public one; nobody is there), then the canary's, which
    // may not; forbidden ones only; ten thousand of them; nothing, then the canary's; a name as long as names may be.
    let flip = Stub {
        answers: vec![
            ("flip.test", vec![vec!["127.0.0.2"], vec!["127.0.0.1"]]),
            ("both.test", vec![vec!["127.0.0.1", "::1", "10.0.0.1"]]),
            ("none.test", vec![vec![], vec!["127.0.0.1"]]),
            (
                "many.test",
                vec![std::iter::repeat_n("127.0.0.1", 10_000).collect()],
            ),
        ],
        asked: Mutex::default(),
    };
    let flip = Arc::new(flip);
    let mut config = site.spec("/").crawl;
    config.retries = 3;
    config.backoff = 0.0;
    config.http.connect_timeout = std::time::Duration::from_millis(300);
    // A wide range opens the port for public addresses only, and the narrow one for that one address.
    config.http.allow = vec![
        format!("0.0.0.0/0:{port}").parse().unwrap(),
        format!("127.0.0.2/32:{port}").parse().unwrap(),
    ];
    let long = format!("{}.test", vec!["a".repeat(61); 4].join("."));
    let seeds = ["flip.test", "both.test", "none.test", "many.test", &long]
        .iter()
        .filter_map(|name| format!("http://{name}:{port}/").parse().ok())
        .collect();
    let collector = WebCollector::with_resolver(Arc::new(Everywhere(seeds)), config, flip.clone()).unwrap();
    let _ = run(&collector, None).await;
    assert_eq!(canary.connections.load(Ordering::SeqCst), 0);
    let asked = flip.asked.lock().unwrap().clone();
    assert!(
        asked.iter().filter(|name| *name == "flip.test").count() >= 2,
        "it was asked again, and did answer loopback"
    );
    // A mixed answer: only what is permitted in it is dialled.
    let mixed = Stub {
        answers: vec![("mixed.test", vec![vec!["10.0.0.1", "127.0.0.1", "192.168.0.1"]])],
        asked: Mutex::default(),
    };
    let mut config = site.spec("/").crawl;
    config.http.allow = vec![format!("127.0.0.1/32:{port}").parse().unwrap()];
    let seed = vec![format!("http://mixed.test:{port}/").parse().unwrap()];
    let collector = WebCollector::with_resolver(Arc::new(Everywhere(seed)), config, Arc::new(mixed)).unwrap();
    let _ = run(&collector, None).await;
    assert!(canary.connections.load(Ordering::SeqCst) > 0);
}
