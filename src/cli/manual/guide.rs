//! Pages of section 7, which are written in Markdown so that they can be read where the source is, too. Of Markdown they use little: headings,
//! paragraphs, lists, blocks of code, tables, emphasis, links and pictures. What of that a page of the manual cannot have is left out.

use std::io;

use roff::{Inline, Roff, bold, italic, roman};

use super::{COMMANDS, FILES, GUIDES, MANUAL, Page, see_also, source};

/// Each by its name.
pub(super) const PAGES: [(&str, &str); 9] = [
    ("weavers-cni", include_str!("../../../packaging/man/weavers-cni.7.md")),
    ("weavers-docker", include_str!("../../../packaging/man/weavers-docker.7.md")),
    ("weavers-ec2", include_str!("../../../packaging/man/weavers-ec2.7.md")),
    ("weavers-ipv6", include_str!("../../../packaging/man/weavers-ipv6.7.md")),
    ("weavers-migrate", include_str!("../../../packaging/man/weavers-migrate.7.md")),
    ("weavers-operations", include_str!("../../../packaging/man/weavers-operations.7.md")),
    ("weavers-paths", include_str!("../../../packaging/man/weavers-paths.7.md")),
    ("weavers-podman", include_str!("../../../packaging/man/weavers-podman.7.md")),
    ("weavers-subnets", include_str!("../../../packaging/man/weavers-subnets.7.md")),
];

pub(super) fn pages(date: &str) -> io::Result<Vec<Page>> {
    let page = |(name, text): &(&str, &str)| {
        let text = page(name, text, date)?;
        Ok(Page { name: (*name).to_owned(), section: GUIDES, text })
    };
    PAGES.iter().map(page).collect()
}

fn page(name: &str, text: &str, date: &str) -> io::Result<Vec<u8>> {
    let (title, body) = text.trim_start().split_once('\n').unwrap_or_default();
    let title = title.trim_start_matches("# ").trim();
    let mut roff = Roff::new();
    roff.control("TH", [name, GUIDES, date, source().as_str(), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {title}"))]);
    let blocks = blocks(body);
    let mut begins = !matches!(blocks.first(), Some(Block::Heading(_)));
    if begins {
        roff.control("SH", ["DESCRIPTION"]);
    }
    for block in &blocks {
        block.render(&mut roff, begins);
        begins = matches!(block, Block::Heading(_));
    }
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    let others =
        PAGES.iter().filter(|(other, _)| *other != name).map(|(other, _)| ((*other).to_owned(), GUIDES));
    let first = [("weavers".to_owned(), COMMANDS), ("weave.toml".to_owned(), FILES)];
    see_also(&first.into_iter().chain(others).collect::<Vec<_>>()).to_writer(&mut text)?;
    Ok(text)
}

/// What a page is made of.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    Heading(String),
    Paragraph(String),
    Item { mark: String, text: String },
    Code(Vec<String>),
    Table(Vec<Vec<String>>),
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        if let Some(fence) = bare.strip_prefix("```") {
            let indent = line.len() - bare.len();
            let _language = fence;
            let code = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```"));
            blocks.push(Block::Code(code.map(|line| line.get(indent..).unwrap_or("").to_owned()).collect()));
        } else if let Some(heading) = bare.strip_prefix("## ") {
            blocks.push(Block::Heading(heading.to_owned()));
        } else if bare.starts_with('|') {
            let mut rows = vec![cells(bare)];
            while let Some(row) = lines.next_if(|line| line.trim_start().starts_with('|')) {
                rows.push(cells(row));
            }
            rows.retain(|row| !row.iter().all(|cell| cell.trim_matches([':', '-']).is_empty()));
            blocks.push(Block::Table(rows));
        } else if !bare.is_empty() && !bare.starts_with("![") {
            let mut text = bare.to_owned();
            while let Some(more) = lines.next_if(|line| goes_on(line)) {
                text += " ";
                text += more.trim();
            }
            blocks.push(item(&text).unwrap_or(Block::Paragraph(text)));
        }
    }
    blocks
}

/// Whether a line belongs to what was begun before it.
fn goes_on(line: &str) -> bool {
    let bare = line.trim_start();
    let begins = ["```", "## ", "|", "!["].iter().any(|mark| bare.starts_with(mark));
    !bare.is_empty() && !begins && item(bare).is_none()
}

/// An item of a list, by its mark or its number.
fn item(text: &str) -> Option<Block> {
    let (mark, text) = text.split_once(' ')?;
    let digits = mark.strip_suffix('.').filter(|digits| !digits.is_empty());
    let is_number = digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let mark = if mark == "-" { "\u{2022}" } else { mark };
    (mark == "\u{2022}" || is_number)
        .then(|| Block::Item { mark: mark.to_owned(), text: text.trim().to_owned() })
}

fn cells(row: &str) -> Vec<String> {
    // A bar that is meant as such has a stroke before it.
    const BAR: &str = "\u{1}";
    let row = row.replace("\\|", BAR);
    row.trim().trim_matches('|').split('|').map(|cell| cell.trim().replace(BAR, "|")).collect()
}

impl Block {
    /// As the first of a section, or not.
    fn render(&self, roff: &mut Roff, begins: bool) {
        if !begins && matches!(self, Block::Paragraph(_) | Block::Code(_) | Block::Table(_)) {
            roff.control("PP", []);
        }
        match self {
            Block::Heading(text) => drop(roff.control("SH", [text.to_uppercase().as_str()])),
            Block::Paragraph(text) => drop(roff.text(inlines(text))),
            Block::Item { mark, text } => {
                roff.control("IP", [mark.as_str(), "4"]);
                roff.text(inlines(text));
            }
            Block::Code(lines) => as_it_is(roff, lines),
            Block::Table(rows) if rows.iter().all(|row| row.len() == 2) => {
                for row in rows.iter().skip(1) {
                    roff.control("TP", []);
                    roff.text(inlines(&row[0]));
                    roff.text(inlines(&row[1]));
                }
            }
            Block::Table(rows) => as_it_is(roff, &aligned(rows)),
        }
    }
}

fn as_it_is(roff: &mut Roff, lines: &[String]) {
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(if line.is_empty() { "\u{a0}" } else { line })]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let plain: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| cell.replace(['`', '*'], "")).collect()).collect();
    crate::cli::render::columns(&plain, &[2])
}

/// Text with `code` and **strong** words in bold, *others* in italics, and links as what they are called.
fn inlines(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    let (mut rest, mut plain) = (text, String::new());
    while let Some(at) = rest.find(['`', '*', '[']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (inline, behind) = match marked(rest) {
            Some(found) => found,
            None => {
                plain.push_str(&rest[..1]);
                rest = &rest[1..];
                continue;
            }
        };
        if !plain.is_empty() {
            inlines.push(roman(std::mem::take(&mut plain)));
        }
        inlines.push(inline);
        rest = behind;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        inlines.push(roman(plain));
    }
    inlines
}

/// What is marked at the beginning of `text`, and what is behind it.
fn marked(text: &str) -> Option<(Inline, &str)> {
    let between =
        |mark: &str| text.strip_prefix(mark)?.split_once(mark).filter(|(inner, _)| !inner.is_empty());
    if let Some((code, behind)) = between("`") {
        return Some((bold(code), behind));
    }
    if let Some((strong, behind)) = between("**") {
        return Some((bold(strong), behind));
    }
    if let Some((word, behind)) = between("*").filter(|(word, _)| !word.starts_with(' ')) {
        return Some((italic(word), behind));
    }
    let (name, behind) = text.strip_prefix('[')?.split_once("](")?;
    let (_, behind) = behind.split_once(')')?;
    (!name.contains([']', '\n'])).then(|| (roman(name.replace('`', "")), behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_markdown_says_is_said_in_the_manual() {
        let text = "# containers of *x*\n\nOne `weavers run` and\n**more** [words](x.md).\n\n## Two\n\n- a 2 * 3\n  long item\n- b\n\n\
                    1. first\n\n```sh\n.dot -x\n\ntwo\n```\n\n![picture](x.svg)\n\n| a | b |\n|--:|---|\n| `1\\|2` | one |\n\n| x | y | z |\n|---|---|---|\n| 1 | 22 | 3 |\n";
        let page = String::from_utf8(page("weavers-x", text, "2026-11-29").unwrap()).unwrap();
        let (page, _) = page.split_once(".SH \"SEE ALSO\"").unwrap();
        let lines: Vec<&str> = page.lines().collect();
        let has = |wanted: &[&str]| lines.windows(wanted.len()).any(|found| found == wanted);
        for wanted in [
            &["weavers\\-x \\- containers of *x*", ".SH DESCRIPTION"][..],
            &["One \\fBweavers run\\fR and \\fBmore\\fR words."],
            &[".SH TWO", ".IP \u{2022} 4", "a 2 * 3 long item", ".IP \u{2022} 4", "b", ".IP 1. 4", "first"],
            &[".nf", "\\&.dot \\-x", "\u{a0}", "two", ".fi"],
            &[".TP", "\\fB1|2\\fR", "one"],
            &[".nf", "x  y   z", "1  22  3", ".fi"],
        ] {
            assert!(has(wanted), "{wanted:?} is missing of {lines:#?}");
        }
        assert!(!page.contains("picture"), "{page}");
    }

    #[test]
    fn every_page_says_what_it_is_and_leaves_no_mark_of_markdown() {
        for page in pages("").unwrap() {
            let text = String::from_utf8(page.text).unwrap();
            assert!(text.contains(&format!("{} \\- ", page.name.replace('-', "\\-"))), "{}", page.name);
            for mark in ["```", "](", "**", "|--"] {
                assert!(!text.contains(mark), "{}: {mark}", page.name);
            }
            assert!(!text.lines().any(|line| line.starts_with("##")), "{}", page.name);
        }
    }
}
