//! In which order the recorded server lists what it keeps in hash tables. The order means nothing, but it is the
//! server's own, and who compares its answers byte for byte finds ours the same.

/// The hash of a text as that platform defines it: over UTF-16 units, wrapping.
fn text_hash(text: &str) -> u32 {
    text.encode_utf16().fold(0, |hash: u32, unit| {
        hash.wrapping_mul(31).wrapping_add(u32::from(unit))
    })
}

/// The place in a table of a power of two of buckets, at most three quarters full and at least 16 large. Applications
/// and instances.
pub(super) fn by_table<T>(items: &mut [T], key: impl Fn(&T) -> &str) {
    let mut buckets: usize = 16;
    while items.len() >= buckets / 4 * 3 {
        buckets *= 2;
    }
    items.sort_by_cached_key(|item| {
        let hash = text_hash(key(item));
        ((hash ^ (hash >> 16)) as usize) & (buckets - 1)
    });
}

/// The place in a trie of five bits a level, with the hash stirred before. Metadata.
pub(super) fn by_trie<T>(items: &mut [T], key: impl Fn(&T) -> &str) {
    items.sort_by_cached_key(|item| {
        let hash = text_hash(key(item));
        let mut stirred = hash.wrapping_add(!(hash << 9));
        stirred ^= stirred >> 14;
        stirred = stirred.wrapping_add(stirred << 4);
        stirred ^= stirred >> 10;
        // The lowest five bits decide first.
        [0, 5, 10, 15, 20, 25, 30].map(|level| (stirred >> level) & 31)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As seen in recordings.
    #[test]
    fn metadata_comes_in_the_recorded_order() {
        for (mut given, wanted) in [
            (vec!["zone", "weight"], vec!["weight", "zone"]),
            (vec!["zone", "weight", "tier"], vec!["weight", "tier", "zone"]),
            (
                vec!["management.port", "zone", "k"],
                vec!["management.port", "zone", "k"],
            ),
        ] {
            by_trie(&mut given, |key| key);
            assert_eq!(given, wanted);
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // https://docs.oracle.com/javase/8/docs/api/java/lang/String.html#hashCode-- : s[0]*31^(n-1) + ...
        assert_eq!(text_hash(""), 0);
        assert_eq!(text_hash("ab"), 97 * 31 + 98);
        let mut names: Vec<String> = (0..40).map(|n| format!("app{n}")).collect();
        let before = names.clone();
        by_table(&mut names, |name| name);
        names.sort();
        let mut sorted = before;
        sorted.sort();
        assert_eq!(names, sorted, "nothing is lost");
    }
}
