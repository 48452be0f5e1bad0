//! What the daemon says, as text for people and as documents for programs.

use clap::builder::styling::{AnsiColor, Style};

use crate::text::printable;

pub mod plan;
pub mod diff;
#[cfg(feature = "aws")]
pub mod doctor;
pub mod explain;
pub mod map;
pub mod migrate;
pub mod status;
pub mod page;
pub mod permissions;

/// Rows as left-aligned columns; `gaps` are the spaces behind each column, the last for all further.
pub(super) fn columns(rows: &[Vec<String>], gaps: &[usize]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = gaps.get(column).or(gaps.last()).copied().unwrap_or(0);
            let pad = if widths[column] == 0 { 0 } else { widths[column] + gap };
            line += &format!("{:<pad$}", printable(cell));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The text in a colour, which says nothing that the text does not.
fn paint(colour: AnsiColor, text: &str) -> String {
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{text}{style:#}")
}

/// The text as a heading.
fn bold(text: &str) -> String {
    let style = Style::new().bold();
    format!("{style}{text}{style:#}")
}

/// `1 peer`, `2 peers`.
fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_another_host_cannot_move_the_cursor() {
        let rows = [vec!["\x1b[2Jevil\n".to_owned(), "b".to_owned()]];
        assert_eq!(columns(&rows, &[2]), ["?[2Jevil?  b"]);
    }

    #[test]
    fn a_column_that_is_empty_everywhere_takes_no_room() {
        let rows = [vec!["a".to_owned(), String::new(), "b".to_owned()]];
        assert_eq!(columns(&rows, &[2]), ["a  b"]);
    }
}
