//! Servers that are none, or that lie.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Answers a connection: the greeting as asked, then `after` to each request.
async fn liar(
    after: impl Fn(i32) -> Vec<u8> + Send + Sync + Clone + 'static,
    greeting: Vec<u8>,
) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (after, greeting) = (after.clone(), greeting.clone());
            tokio::spawn(async move {
                let mut first = true;
                loop {
                    let Ok(length) = stream.read_i32().await else {
                        return;
                    };
                    let mut body = vec![0; length as usize];
                    if stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    let xid = i32::from_be_bytes(body[..4].try_into().unwrap());
                    let answer = if first { greeting.clone() } else { after(xid) };
                    first = false;
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, task)
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = parts.concat();
    let mut out = (body.len() as i32).to_be_bytes().to_vec();
    out.extend(body);
    out
}

fn greeting() -> Vec<u8> {
    framed(&[
        &0i32.to_be_bytes(),
        &2000i32.to_be_bytes(),
        &7i64.to_be_bytes(),
        &16i32.to_be_bytes(),
        &[1; 16],
        &[0],
    ])
}

fn reply(xid: i32, code: i32, body: &[u8]) -> Vec<u8> {
    framed(&[&xid.to_be_bytes(), &1i64.to_be_bytes(), &code.to_be_bytes(), body])
}

fn to(address: &str) -> ZooKeeperDiscovery {
    let mut config = ZooKeeperConfig::new(vec![address.to_owned()]);
    config.session_timeout = 1;
    config.max_instances = 100;
    ZooKeeperDiscovery::new("liar", config, Arc::new(ManualClock::default())).unwrap()
}

#[tokio::test]
async fn what_does_not_greet_is_no_server() {
    for greeting in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        (-1i32).to_be_bytes().to_vec(),
        i32::MAX.to_be_bytes().to_vec(),
        framed(&[]),
        framed(&[&[0; 7]]),
        // A password longer than the message.
        framed(&[
            &0i32.to_be_bytes(),
            &2000i32.to_be_bytes(),
            &7i64.to_be_bytes(),
            &i32::MAX.to_be_bytes(),
        ]),
    ] {
        let (address, task) = liar(|_| Vec::new(), greeting).await;
        let error = to(&address).list(&fresh_service()).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
            "{error}"
        );
        assert_eq!(error.context("server"), Some(address.as_str()));
        task.abort();
    }
}

#[tokio::test]
async fn what_answers_nonsense_is_given_up() {
    let answers: Vec<Box<dyn Fn(i32) -> Vec<u8> + Send + Sync>> = vec![
        // The answer to another request.
        Box::new(|xid| reply(xid + 5, 0, &0i32.to_be_bytes())),
        Box::new(|_| (-5i32).to_be_bytes().to_vec()),
        Box::new(|_| i32::MAX.to_be_bytes().to_vec()),
        Box::new(|_| framed(&[&[1, 2, 3]])),
        // A list of two billion names, and one name of two billion bytes.
        Box::new(|xid| reply(xid, 0, &i32::MAX.to_be_bytes())),
        Box::new(|xid| reply(xid, 0, &[1i32.to_be_bytes(), i32::MAX.to_be_bytes()].concat())),
        // An event that is cut off.
        Box::new(|_| reply(-1, 0, &[0, 0])),
        // A code that nobody knows.
        Box::new(|xid| reply(xid, -4711, &[])),
        // Nothing at all.
        Box::new(|_| Vec::new()),
    ];
    for (which, answer) in answers.into_iter().enumerate() {
        let answer = Arc::new(answer);
        let (address, task) = liar(move |xid| answer(xid), greeting()).await;
        let error = to(&address).list(&fresh_service()).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
            "{which}: {error}"
        );
        task.abort();
    }
}

/// Names of children that are no ids, and contents that are no instances: left out.
#[tokio::test]
async fn entries_that_lie_are_left_out() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (address, task) = liar(
        move |xid| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let names = ["../up", "a", "b"];
                let mut body = (names.len() as i32).to_be_bytes().to_vec();
                for name in names {
                    body.extend((name.len() as i32).to_be_bytes());
                    body.extend(name.as_bytes());
                }
                reply(xid, 0, &body)
            }
            1 => reply(xid, 0, &(-1i32).to_be_bytes()),
            2 => {
                let huge = vec![b' '; 1_000_000];
                reply(xid, 0, &[&(huge.len() as i32).to_be_bytes()[..], &huge].concat())
            }
            _ => reply(xid, -101, &[]),
        },
        greeting(),
    )
    .await;
    let seen = to(&address).list(&fresh_service()).await.unwrap();
    assert!(seen.instances.is_empty());
    task.abort();
}

/// A call that is dropped half-way does not leave its answer to the next one.
#[tokio::test]
async fn a_dropped_call_does_not_confuse_the_next() {
    let Some(config) = settings() else { return };
    let near = open(&config);
    let service = fresh_service();
    near.register(&instance(&service, "a")).await.unwrap();
    for round in 0..40u64 {
        let list = near.list(&service);
        // At once, or a little later: somewhere between sending and reading.
        let _ = tokio::time::timeout(Duration::from_micros(round * 20), list).await;
        let seen = near.list(&service).await.unwrap();
        assert_eq!(seen.instances.len(), 1, "round {round}");
        assert!(!seen.stale);
    }
}
