//! The name that was probably meant: edit distance between short words.

/// The least number of edits that turn `a` into `b`.
///
/// An edit inserts, removes or replaces one character, or swaps two neighbours (each part of the
/// text is edited at most once: "optimal string alignment"). Takes |a| × |b| steps.
///
/// ```
/// # use drystone_core::config::edit_distance;
/// assert_eq!(edit_distance("limit", "limti"), 1);
/// ```
#[must_use]
pub fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    // Rows of the table of distances between the first i of `a` and the first j of `b`; a swap
    // looks two rows back.
    let mut two_back: Vec<usize> = Vec::new();
    let mut back: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i);
        for j in 1..=b.len() {
            let replaced = back[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(back[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(two_back[j - 2] + 1);
            }
            row.push(best);
        }
        two_back = std::mem::replace(&mut back, row);
    }
    back[b.len()]
}

/// The candidate nearest to `word`, case ignored; the first of several equally near.
///
/// `None` when all are further than a third of their own length (and further than 2 edits): such a
/// word is something else, not a misspelling.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let length = word.chars().count();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let reach = (candidate.len() / 3).max(2);
            // The distance is at least the difference in length: most need no table, and a very
            // long word costs nothing.
            if candidate.chars().count().abs_diff(length) > reach {
                return None;
            }
            let distance = edit_distance(&word, &candidate.to_lowercase());
            (distance <= reach).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
            ("ca", "abc", 3),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_word() {
        let words = ["limit", "soft_limit", "history"];
        assert_eq!(nearest("limt", words), Some("limit"));
        assert_eq!(nearest("softlimit", words), Some("soft_limit"));
        assert_eq!(nearest("HISTORY", words), Some("history"));
        assert_eq!(nearest("something_else", words), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(nearest("limit", []), None);
    }

    proptest! {
        #[test]
        fn a_distance_is_symmetric_and_bounded(a in "[ab]{0,8}", b in "[ab]{0,8}") {
            let distance = edit_distance(&a, &b);
            prop_assert_eq!(distance, edit_distance(&b, &a));
            prop_assert!(distance >= a.len().abs_diff(b.len()));
            prop_assert!(distance <= a.len().max(b.len()));
            prop_assert_eq!(distance == 0, a == b);
        }
    }
}
