//! Text from others: a nickname, a reason, the name of a file. Whoever wrote it may want to write more than that.

/// `text` as one line that shows all that it says: what would end the line, steer a terminal, turn the
/// direction of reading or stand there unseen becomes `?`, one for each character.
///
/// It is for what people read, where it comes in and where it goes out; what is clean stays as it is.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '?' }).collect()
}

/// [`printable`], and no longer than so many bytes.
pub fn short(text: &str, len_max: usize) -> String {
    // Nothing gets longer by being made printable.
    let mut text = printable(&text[..text.floor_char_boundary(text.len().min(8 * len_max))]);
    text.truncate(text.floor_char_boundary(len_max));
    text
}

/// [`printable`], line by line, for a text that has lines of its own.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Letters that join or part others (U+200C, U+200D) are part of how words are written.
fn is_printable(c: char) -> bool {
    let unseen = matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' // Direction of reading.
        | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}' // Ends of lines and paragraphs.
        | '\u{200b}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' // Without width.
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' // Annotations and tags.
    );
    !c.is_control() && !unseen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nickname_cannot_clear_the_screen_or_write_a_second_line() {
        assert_eq!(printable("\x1b[2Jweb\r\nMAINPID=1\0\x7f\u{9b}31m"), "?[2Jweb??MAINPID=1???31m");
        assert_eq!(printable("a\u{2028}b\u{2029}c"), "a?b?c");
    }

    #[test]
    fn a_name_cannot_be_turned_around_or_hidden() {
        assert_eq!(printable("web\u{202e}gnp.\u{2066}db\u{200f}"), "web?gnp.?db?");
        assert_eq!(printable("we\u{200b}b\u{feff}\u{e0041}"), "we?b??");
    }

    #[test]
    fn names_in_any_script_stay_as_they_are() {
        for name in ["ip-10-0-1-11", "müller", "データベース", "می\u{200c}خواهم", "מסד", ""]
        {
            assert_eq!(printable(name), name);
        }
        assert_eq!(printable(&printable("a\x1b")), "a?");
    }

    #[test]
    fn a_name_without_end_is_cut_between_two_letters() {
        assert_eq!(short(&"é".repeat(10_000), 5), "éé");
        assert_eq!(short("\x1bweb", 64), "?web");
        assert_eq!(short(&"\u{202e}".repeat(64), 3), "???");
    }

    #[test]
    fn a_text_of_lines_keeps_them_and_nothing_else() {
        assert_eq!(printable_lines("3:9: a\x1b\n4:1: b\r\n"), "3:9: a?\n4:1: b?\n");
    }
}
