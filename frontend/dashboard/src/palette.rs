//! What the palette finds: how well a text answers what was typed. Pure.

/// How well `text` answers `typed`, which is in lower case: all its letters in their order. Higher is better; `None`
/// where they do not stand there.
pub fn score(text: &str, typed: &str) -> Option<i32> {
    let mut wanted = typed.bytes().filter(|byte| *byte != b' ').peekable();
    let (mut score, mut run, mut before) = (0, 0, b' ');
    for byte in text.bytes() {
        let Some(next) = wanted.peek() else { break };
        if byte.eq_ignore_ascii_case(next) {
            wanted.next();
            run += 1;
            score += run * 8;
            // The beginning of a word is worth more than its middle.
            if !before.is_ascii_alphanumeric() {
                score += 12;
            }
        } else {
            run = 0;
            score -= 2;
        }
        before = byte;
    }
    wanted.peek().is_none().then_some(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_answer_is_the_one_meant() {
        for (typed, best, others) in [
            ("pay", "payments", &["display", "p-a-y-roll", "xpay"][..]),
            ("dt", "drain this", &["deregister", "edit"]),
            ("reg", "Register an instance", &["Deregister this", "large group"]),
            ("os", "order.service", &["cosmos", "oops"]),
        ] {
            let most = others.iter().filter_map(|text| score(text, typed)).max();
            assert!(score(best, typed) > most, "{typed}: {best} {:?} {most:?}", score(best, typed));
        }
        assert_eq!(score("payments", "pz"), None);
        assert_eq!(score("anything", ""), Some(0));
        assert!(score("\u{652f}\u{4ed8}", "\u{652f}").is_some());
    }
}
