//! Work on rows, in stretches of a fixed length: what a stretch answers does not depend on how many threads there are,
//! and answers are put together in the order of the stretches.

/// The rows of one stretch.
pub(crate) const STRETCH: usize = 4096;

/// Runs `work` for each item, on at most `threads` threads of this call's own, and answers in the order of the items.
pub(crate) fn each<I: Send, T: Send>(items: Vec<I>, threads: usize, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let threads = threads.clamp(1, items.len().max(1));
    if threads == 1 {
        return items.into_iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let mut parts: Vec<Vec<I>> = Vec::with_capacity(threads);
    let mut items = items.into_iter();
    loop {
        let part: Vec<I> = items.by_ref().take(share).collect();
        if part.is_empty() {
            break;
        }
        parts.push(part);
    }
    let work = &work;
    std::thread::scope(|scope| {
        let mine = parts.pop();
        let running: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(move || part.into_iter().map(work).collect::<Vec<T>>()))
            .collect();
        let last: Vec<T> = mine.into_iter().flatten().map(work).collect();
        let mut answers = Vec::new();
        for thread in running {
            match thread.join() {
                Ok(part) => answers.extend(part),
                // A panic stays a panic, as if there were no threads.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        answers.extend(last);
        answers
    })
}

/// The stretches of `rows` rows: from, to.
pub(crate) fn stretches(rows: usize) -> Vec<std::ops::Range<usize>> {
    (0..rows.div_ceil(STRETCH))
        .map(|i| i * STRETCH..((i + 1) * STRETCH).min(rows))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_order_whatever_the_threads() {
        for items in [0, 1, 2, 7, 100] {
            let expected: Vec<usize> = (0..items).map(|i| i * i).collect();
            for threads in [0, 1, 2, 3, 8, 200] {
                assert_eq!(each((0..items).collect(), threads, |i| i * i), expected);
            }
        }
        let covered: usize = stretches(10_000).iter().map(ExactSizeIterator::len).sum();
        assert_eq!(
            (covered, stretches(0).len(), stretches(4096).len()),
            (10_000, 0, 1)
        );
    }
}
