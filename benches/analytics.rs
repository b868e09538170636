//! What models cost on a million rows, beside scikit-learn on the same rows (`benches/peers/analytics/models.py`).
//!
//! ```sh
//! cargo bench --features analytics --bench analytics -- --folder FOLDER [--rows 1000000] [--section models]
//! ```
//!
//! `--section plot` (with `--features plot`) draws scatters as PNG, beside matplotlib (`benches/peers/analytics/plot.py`).
//!
//! `--section clean` cleans a frame, beside pandas and Polars from Python (`benches/peers/analytics/clean.py`).
//!
//! The rows come from a seed and are left in FOLDER for the peers. Every line says what was found, so that a fast step
//! with a wrong answer does not count. Processor time is that of the calling thread, which does all the work.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a program for people, not the library"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

#[path = "analytics/clean.rs"]
mod clean;
#[path = "analytics/models.rs"]
mod models;
#[cfg(feature = "plot")]
#[path = "analytics/plot.rs"]
mod plot;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

fn main() -> Result<()> {
    let (mut rows, mut folder, mut section) = (1_000_000_usize, None, "models".to_owned());
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--rows" => rows = value()?.parse().context("--rows is a number")?,
            "--folder" => folder = Some(PathBuf::from(value()?)),
            "--section" => section = value()?,
            _ => bail!("unknown argument {argument}; see the head of benches/analytics.rs"),
        }
    }
    let folder = match folder {
        Some(folder) => folder,
        None => std::env::temp_dir().join(format!("open-crm-analytics-{}", std::process::id())),
    };
    std::fs::create_dir_all(&folder)?;
    for section in section.split(',') {
        match section {
            "clean" => clean::run(rows, &folder)?,
            "models" => models::run(rows, &folder)?,
            #[cfg(feature = "plot")]
            "plot" => plot::run(rows, &folder)?,
            _ => bail!("there is no section {section}"),
        }
    }
    Ok(())
}

/// Processor seconds of this thread, from the kernel's scheduler.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e9
}

/// A figure of this process' memory, in MiB: `VmRSS` now, `VmHWM` at its peak.
fn memory(figure: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or_default() / 1024.0
}

/// Runs a step and prints what it took and found; memory is what its peak lies above the memory before it.
fn step<T>(name: &str, run: impl FnOnce() -> Result<T>, found: impl FnOnce(&T) -> String) -> Result<T> {
    // The peak begins anew (proc(5), clear_refs); where that is not allowed, it is that of all steps so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = memory("VmRSS");
    let (begun, spent) = (Instant::now(), processor());
    let answer = run()?;
    let (spent, took) = (processor() - spent, begun.elapsed().as_secs_f64());
    let more = memory("VmHWM") - before;
    println!(
        "{name}\t{spent:.4} CPU s\t{took:.3} s\t+{more:.0} MiB\t{}",
        found(&answer)
    );
    Ok(answer)
}
