//! What reaching people costs: wall time and processor time of all threads, a message.
//!
//! ```sh
//! cargo bench --bench channels --no-default-features --features smtp,testkit -- --section mail
//! cargo bench --bench channels --no-default-features --features smtp,testkit -- --mails 100000 --threads 2
//! cargo bench --bench channels --no-default-features --features sqlite,postgres,smtp,testkit -- --section outbox --threads 2
//! cargo bench --bench channels --no-default-features --features sqlite,smtp,testkit -- --section campaign --mails 100000
//! ```
//!
//! Section `mail`: personalised mails of text and HTML, built, signed and handed to a local sink (`smtp-sink` of Postfix,
//! started here; `--sink HOST:PORT` takes one that runs). The peers (smtplib, aiosmtplib, `smtp-source`) are in
//! `benches/peers/`, and the README there has the figures. Section `outbox`: messages from being queued to being settled,
//! with durable commits on a store (`--store`, else a SQLite file). Section `campaign`: a campaign for `--mails` people
//! planned, written down, queued, paused and called off, with the memory it takes. Section
//! `render`: subject, text and HTML filled from templates, beside Jinja2 and `string.Template` (`benches/peers/render.py`).
//! Every section checks its own answers.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a program for people, not the library"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

#[cfg(feature = "sqlite")]
#[path = "channels/campaign.rs"]
mod campaign;
#[path = "channels/mail.rs"]
mod mail;
#[cfg(feature = "sqlite")]
#[path = "channels/outbox.rs"]
mod outbox;
#[path = "channels/render.rs"]
mod render;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser as _;

#[derive(clap::Parser)]
struct Arguments {
    /// How many mails.
    #[arg(long, default_value_t = 20_000)]
    mails: usize,
    /// Which sections, with commas; all unless given.
    #[arg(long, value_delimiter = ',')]
    section: Vec<String>,
    /// How many threads work; 1 is the current one.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// An SMTP server that takes everything, as HOST:PORT.
    #[arg(long)]
    sink: Option<String>,
    /// A DKIM key in PEM to sign with besides Ed25519, such as one of RSA.
    #[arg(long)]
    key: Option<std::path::PathBuf>,
    /// The outbox's store by its URL; a SQLite file in a new folder unless given.
    #[arg(long)]
    store: Option<String>,
    /// The campaign in this process, and no other one beside it.
    #[arg(long, hide = true)]
    alone: bool,
    /// How many dispatchers share the outbox.
    #[arg(long, default_value_t = 1)]
    dispatchers: usize,
    /// How many messages a dispatcher has begun at the same time.
    #[arg(long, default_value_t = 128)]
    concurrency: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = match arguments.threads {
        1 => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?,
    };
    println!(
        "{:<52} {:>9} {:>9} {:>10} {:>9} {:>12}",
        "", "count", "wall s", "a second", "CPU s", "CPU us each"
    );
    let wanted = |name: &str| arguments.section.is_empty() || arguments.section.iter().any(|s| s == name);
    if wanted("mail") {
        runtime.block_on(mail::run(&arguments))?;
    }
    if wanted("render") {
        runtime.block_on(render::run(&arguments))?;
    }
    #[cfg(feature = "sqlite")]
    if wanted("campaign") {
        let store = arguments.store.as_deref();
        runtime.block_on(campaign::run(
            store,
            arguments.mails,
            arguments.threads,
            arguments.alone,
        ))?;
    }
    #[cfg(feature = "sqlite")]
    if wanted("outbox") {
        let plan = outbox::Plan {
            store: arguments.store.clone(),
            messages: arguments.mails,
            dispatchers: arguments.dispatchers,
            concurrency: arguments.concurrency,
        };
        runtime.block_on(outbox::run(&plan))?;
    }
    #[cfg(not(feature = "sqlite"))]
    anyhow::ensure!(
        !arguments.section.iter().any(|s| s == "outbox"),
        "the section `outbox` needs a store: --features sqlite"
    );
    Ok(())
}

/// Processor time of this process, all threads, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

async fn timed<T>(what: &str, count: usize, work: impl Future<Output = T>) -> T {
    let (wall, before) = (Instant::now(), cpu());
    let answer = work.await;
    let (wall, used) = (wall.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    println!(
        "{what:<52} {count:>9} {wall:>9.2} {:>10.0} {used:>9.2} {:>12.2}",
        count as f64 / wall,
        used * 1e6 / count as f64
    );
    answer
}
