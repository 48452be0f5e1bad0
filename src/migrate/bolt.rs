//! Reads one bucket of a bolt file, the store that Weave Net's router keeps its data in. Nothing is ever written to such a file.
//!
//! ```text
//! file    = page*                                 pages 0 and 1 are meta pages, of which the newer sound one counts
//! page    = id u64 | kind u16 | count u16 | overflow u32 | body      one with overflow is so many pages longer
//! meta    = magic u32 | version u32 | page size u32 | flags u32 | root u64 | sequence u64 | freelist u64 | pages u64
//!           | transaction u64 | checksum u64      FNV-1a of all before it
//! branch  = { position u32 | key length u32 | page u64 }*            a position counts from where its element begins
//! leaf    = { flags u32 | position u32 | key length u32 | value length u32 }*
//! bucket  = root u64 | sequence u64 [ | page ]    the value of a leaf's element with flag 1; without a root its page follows
//! ```
//!
//! Numbers stand in the order of the machine that wrote them, which is little-endian on all that EC2 has. No page is read twice, nothing
//! is copied, and elements are counted, so that a file costs little whatever stands in it.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

/// The only version of the format that Weave Net has used.
const VERSION: u32 = 2;
const MAGIC: u32 = 0xED0C_DAED;
const HEAD_LEN: usize = 16;
const META_LEN: usize = 64;
const ELEMENT_LEN: usize = 16;
const BUCKET_HEAD_LEN: usize = 16;
/// What bolt lets a page be: that of the machine's memory.
const PAGE_SIZES: [usize; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];
/// A tree with a key in every page would be that deep only if it were larger than any disk.
const DEPTH_MAX: usize = 32;
/// Elements that are read of a file. Weave Net's has seven or so.
const ELEMENTS_MAX: usize = 1 << 14;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
/// Of an element of a leaf: its value is a bucket.
const IS_BUCKET: u32 = 0x01;

/// What a bucket holds, without the buckets in it.
pub type Pairs<'a> = BTreeMap<&'a [u8], &'a [u8]>;

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum BoltError {
    #[error("it is no bolt file, or both of its meta pages are damaged")]
    NoMeta,
    #[error("it is a bolt file of version {0}, and not of {VERSION}")]
    Version(u32),
    #[error("page {0} lies outside the file")]
    Outside(u64),
    #[error("page {0} is damaged")]
    Damaged(u64),
    #[error("page {0} is used twice")]
    Twice(u64),
    #[error("pages are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("it has more than {ELEMENTS_MAX} elements")]
    TooMany,
}

/// The bucket of this name at the top of `file`; `None` if there is none.
pub fn bucket<'a>(file: &'a [u8], name: &[u8]) -> Result<Option<Pairs<'a>>, BoltError> {
    let meta = newest_meta(file)?;
    let mut walk = Walk { file, meta, seen: BTreeSet::new(), elements: 0 };
    let mut tops = Vec::new();
    walk.tree(meta.root, 0, &mut tops)?;
    let Some(top) = tops.iter().find(|top| top.is_bucket && top.key == name) else { return Ok(None) };
    let mut elements = Vec::new();
    match number(top.value, 0).ok_or(BoltError::Damaged(meta.root))? {
        0 => walk.leaf(top.value.get(BUCKET_HEAD_LEN..).unwrap_or_default(), meta.root, &mut elements)?,
        root => walk.tree(root, 0, &mut elements)?,
    }
    let pairs = elements.iter().filter(|element| !element.is_bucket);
    Ok(Some(pairs.map(|element| (element.key, element.value)).collect()))
}

/// What a meta page says.
#[derive(Clone, Copy, Debug)]
struct Meta {
    page_len: usize,
    root: u64,
    transaction: u64,
}

/// The second one is where the first says, or where a page of another size would end if the first one is damaged.
fn newest_meta(file: &[u8]) -> Result<Meta, BoltError> {
    let first = meta(file, 0);
    let second = PAGE_SIZES.iter().find_map(|&len| meta(file, len).ok().filter(|meta| meta.page_len == len));
    match (first, second) {
        (Ok(first), Some(second)) if second.transaction > first.transaction => Ok(second),
        (Ok(first), _) => Ok(first),
        (Err(_), Some(second)) => Ok(second),
        (Err(wrong), None) => Err(wrong),
    }
}

fn meta(file: &[u8], at: usize) -> Result<Meta, BoltError> {
    let page = file.get(at..).ok_or(BoltError::NoMeta)?;
    let body = page.get(HEAD_LEN..HEAD_LEN + META_LEN).ok_or(BoltError::NoMeta)?;
    if kind(page) != Some(META) || short_number(body, 0) != Some(MAGIC) {
        return Err(BoltError::NoMeta);
    }
    let version = short_number(body, 4).ok_or(BoltError::NoMeta)?;
    if version != VERSION {
        return Err(BoltError::Version(version));
    }
    let (said, checked) = (number(body, 56), checksum(&body[..56]));
    let page_len = short_number(body, 8).map(|len| len as usize).filter(|len| PAGE_SIZES.contains(len));
    match (said, page_len, number(body, 16), number(body, 48)) {
        // Bolt takes a checksum of 0 for none.
        (Some(said), Some(page_len), Some(root), Some(transaction)) if said == 0 || said == checked => {
            Ok(Meta { page_len, root, transaction })
        }
        _ => Err(BoltError::NoMeta),
    }
}

/// What tells a meta page that is whole from one that is not.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// An element as it stands in a page, and what its position counts in.
type Raw<'a> = (&'a [u8], &'a [u8]);

/// An element of a leaf.
struct Element<'a> {
    key: &'a [u8],
    value: &'a [u8],
    is_bucket: bool,
}

/// What was read so far, so that nothing is read again and again.
struct Walk<'a> {
    file: &'a [u8],
    meta: Meta,
    seen: BTreeSet<u64>,
    elements: usize,
}

impl<'a> Walk<'a> {
    /// Adds every element of the leaves below a page.
    fn tree(&mut self, page: u64, depth: usize, found: &mut Vec<Element<'a>>) -> Result<(), BoltError> {
        if depth > DEPTH_MAX {
            return Err(BoltError::TooDeep);
        }
        let bytes = self.page(page)?;
        match kind(bytes) {
            Some(LEAF) => self.leaf(bytes, page, found),
            Some(BRANCH) => {
                for (element, _) in self.counted(bytes, page)? {
                    let below = number(element, 8).ok_or(BoltError::Damaged(page))?;
                    self.tree(below, depth + 1, found)?;
                }
                Ok(())
            }
            _ => Err(BoltError::Damaged(page)),
        }
    }

    /// Adds the elements of a leaf, which is this page or lies in it.
    fn leaf(&mut self, bytes: &'a [u8], page: u64, found: &mut Vec<Element<'a>>) -> Result<(), BoltError> {
        for (element, rest) in self.counted(bytes, page)? {
            found.push(read_element(element, rest).ok_or(BoltError::Damaged(page))?);
        }
        Ok(())
    }

    fn counted(&mut self, bytes: &'a [u8], page: u64) -> Result<Vec<Raw<'a>>, BoltError> {
        let elements = elements(bytes).ok_or(BoltError::Damaged(page))?;
        self.elements += elements.len();
        if self.elements > ELEMENTS_MAX { Err(BoltError::TooMany) } else { Ok(elements.collect()) }
    }

    /// A page with all that overflowed from it.
    fn page(&mut self, page: u64) -> Result<&'a [u8], BoltError> {
        let outside = BoltError::Outside(page);
        let at = usize::try_from(page).ok().and_then(|page| page.checked_mul(self.meta.page_len));
        let rest = at.and_then(|at| self.file.get(at..)).ok_or(outside)?;
        if number(rest, 0).ok_or(outside)? != page {
            return Err(BoltError::Damaged(page));
        }
        let pages =
            short_number(rest, 12).and_then(|overflow| usize::try_from(overflow).ok()?.checked_add(1));
        let len = pages.and_then(|pages| pages.checked_mul(self.meta.page_len));
        let bytes = len.and_then(|len| rest.get(..len)).ok_or(outside)?;
        if self.seen.insert(page) { Ok(bytes) } else { Err(BoltError::Twice(page)) }
    }
}

fn read_element<'a>(element: &[u8], rest: &'a [u8]) -> Option<Element<'a>> {
    let flags = short_number(element, 0)?;
    let start = short_number(element, 4)? as usize;
    let split = start.checked_add(short_number(element, 8)? as usize)?;
    let end = split.checked_add(short_number(element, 12)? as usize)?;
    let (key, value) = (rest.get(start..split)?, rest.get(split..end)?);
    Some(Element { key, value, is_bucket: flags & IS_BUCKET != 0 })
}

/// Each element of a page; its position counts from there on.
fn elements(page: &[u8]) -> Option<impl ExactSizeIterator<Item = Raw<'_>>> {
    let count = usize::from(half_number(page, 10)?);
    let body = page.get(HEAD_LEN..)?;
    let all = body.get(..count * ELEMENT_LEN)?;
    Some(
        all.chunks_exact(ELEMENT_LEN)
            .enumerate()
            .map(|(index, element)| (element, &body[index * ELEMENT_LEN..])),
    )
}

fn kind(page: &[u8]) -> Option<u16> {
    half_number(page, 8)
}

fn half_number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn short_number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const PAGE_LEN: usize = 1024;

    /// A page of that kind, with a body.
    fn page(number: u64, (kind, count, overflow): (u16, u16, u32), body: &[u8]) -> Vec<u8> {
        let mut page = number.to_le_bytes().to_vec();
        page.extend(kind.to_le_bytes());
        page.extend(count.to_le_bytes());
        page.extend(overflow.to_le_bytes());
        page.extend(body);
        page.resize(PAGE_LEN * (1 + overflow as usize), 0);
        page
    }

    fn meta_page(number: u64, root: u64, transaction: u64) -> Vec<u8> {
        let mut body = [MAGIC, VERSION, PAGE_LEN as u32, 0].map(u32::to_le_bytes).concat();
        body.extend([root, 0, 2, 100, transaction].map(u64::to_le_bytes).concat());
        let sum = checksum(&body);
        body.extend(sum.to_le_bytes());
        page(number, (META, 0, 0), &body)
    }

    fn leaf_page(number: u64, pairs: &[(&[u8], &[u8], u32)]) -> Vec<u8> {
        let (mut elements, mut rest) = (Vec::new(), Vec::new());
        for (index, (key, value, flags)) in pairs.iter().enumerate() {
            let position = (pairs.len() - index) * ELEMENT_LEN + rest.len();
            let numbers = [*flags, position as u32, key.len() as u32, value.len() as u32];
            elements.extend(numbers.map(u32::to_le_bytes).concat());
            rest.extend([*key, *value].concat());
        }
        let body = [elements, rest].concat();
        let overflow = (HEAD_LEN + body.len()).div_ceil(PAGE_LEN) - 1;
        page(number, (LEAF, pairs.len() as u16, overflow as u32), &body)
    }

    fn branch_page(number: u64, below: &[u64]) -> Vec<u8> {
        let element = |page: &u64| [&[0; 8][..], &page.to_le_bytes()].concat();
        page(number, (BRANCH, below.len() as u16, 0), &below.iter().flat_map(element).collect::<Vec<_>>())
    }

    fn file(root: u64, pages: &[Vec<u8>]) -> Vec<u8> {
        let metas = [meta_page(0, root, 6), meta_page(1, root, 7), page(2, (0x10, 0, 0), &[])];
        metas.iter().chain(pages).flatten().copied().collect()
    }

    fn rooted_at(page: u64) -> Vec<u8> {
        [page.to_le_bytes(), [0; 8]].concat()
    }

    /// What the bucket `top` holds.
    fn read(file: &[u8]) -> Result<Option<String>, BoltError> {
        let pairs = bucket(file, b"top")?;
        Ok(pairs.map(|pairs| {
            pairs.iter().fold(String::new(), |mut text, (key, value)| {
                let _ = write!(text, "{}={} ", String::from_utf8_lossy(key), value.len());
                text
            })
        }))
    }

    #[test]
    fn a_bucket_in_its_own_pages_is_read_and_one_within_a_page_too() {
        let own = leaf_page(4, &[(b"a", b"1", 0), (b"b", &[7; 3000], 0), (b"c", &[0; 16], IS_BUCKET)]);
        let inline = [&rooted_at(0)[..], &leaf_page(0, &[(b"x", b"12", 0)])].concat();
        let tops: [(&[u8], &[u8], u32); 3] =
            [(b"other", &inline, IS_BUCKET), (b"plain", b"", 0), (b"top", &rooted_at(4), IS_BUCKET)];
        let two = [page(3, (LEAF, 0, 0), &[]), own.clone()];
        assert_eq!(read(&file(3, &two)), Ok(None), "an empty file has none");
        let top = leaf_page(3, &tops);
        assert_eq!(top.len(), 2 * PAGE_LEN, "the one within a page makes this one overflow");
        // A page further, since that one is longer.
        let own = leaf_page(5, &[(b"a", b"1", 0), (b"b", &[7; 3000], 0), (b"c", &[0; 16], IS_BUCKET)]);
        let tops: [(&[u8], &[u8], u32); 2] =
            [(b"other", &inline, IS_BUCKET), (b"top", &rooted_at(5), IS_BUCKET)];
        let whole = file(3, &[leaf_page(3, &tops), own]);
        assert_eq!(read(&whole), Ok(Some("a=1 b=3000 ".to_owned())));
        let other = bucket(&whole, b"other").unwrap().unwrap();
        assert_eq!(other.into_iter().collect::<Vec<_>>(), [(&b"x"[..], &b"12"[..])]);
    }

    #[test]
    fn leaves_below_branches_are_read_and_a_page_is_not_read_twice() {
        let top = leaf_page(3, &[(b"top", &rooted_at(4), IS_BUCKET)]);
        let leaves = [leaf_page(5, &[(b"a", b"", 0)]), leaf_page(6, &[(b"b", b"", 0)])].concat();
        let tree = |below: &[u64]| file(3, &[top.clone(), branch_page(4, below), leaves.clone()]);
        assert_eq!(read(&tree(&[5, 6])), Ok(Some("a=0 b=0 ".to_owned())));
        assert_eq!(read(&tree(&[5, 5])), Err(BoltError::Twice(5)));
        assert_eq!(read(&tree(&[4])), Err(BoltError::Twice(4)), "nor does it lead back");
        assert_eq!(read(&tree(&[99])), Err(BoltError::Outside(99)));
        assert_eq!(read(&tree(&[2])), Err(BoltError::Damaged(2)), "the list of free pages holds no keys");
    }

    #[test]
    fn the_newer_sound_meta_page_counts() {
        let pages = [
            leaf_page(
                3,
                &[(
                    b"top",
                    &[&rooted_at(0)[..], &leaf_page(0, &[(b"old", b"", 0)])[..600]].concat(),
                    IS_BUCKET,
                )],
            ),
            leaf_page(
                4,
                &[(
                    b"top",
                    &[&rooted_at(0)[..], &leaf_page(0, &[(b"new", b"", 0)])[..600]].concat(),
                    IS_BUCKET,
                )],
            ),
        ];
        let with = |metas: [Vec<u8>; 2]| {
            metas
                .iter()
                .chain(&[page(2, (0x10, 0, 0), &[])])
                .chain(&pages)
                .flatten()
                .copied()
                .collect::<Vec<u8>>()
        };
        let damaged = |mut page: Vec<u8>| {
            page[HEAD_LEN + 20] ^= 1;
            page
        };
        let (old, new) = ((0, 3, 6), (1, 4, 7));
        let of = |(number, root, transaction)| meta_page(number, root, transaction);
        assert_eq!(read(&with([of(old), of(new)])), Ok(Some("new=0 ".to_owned())));
        assert_eq!(read(&with([of((0, 4, 8)), of((1, 3, 7))])), Ok(Some("new=0 ".to_owned())));
        assert_eq!(read(&with([of(old), damaged(of(new))])), Ok(Some("old=0 ".to_owned())));
        assert_eq!(read(&with([damaged(of(old)), of(new)])), Ok(Some("new=0 ".to_owned())));
        assert_eq!(read(&with([damaged(of(old)), damaged(of(new))])), Err(BoltError::NoMeta));
        assert_eq!(read(b"SQLite format 3"), Err(BoltError::NoMeta));
    }

    proptest! {
        #[test]
        fn damaged_files_cost_little_and_are_no_reason_to_panic(
            changes in prop::collection::vec((0usize..8 * PAGE_LEN, any::<u8>()), 1..8), cut in 0usize..9 * PAGE_LEN,
        ) {
            let top = leaf_page(3, &[(b"top", &rooted_at(4), IS_BUCKET)]);
            let leaves = [leaf_page(5, &[(b"a", &[1; 1500], 0)]), leaf_page(7, &[(b"b", b"", 0)])].concat();
            let mut bytes = file(3, &[top, branch_page(4, &[5, 7]), leaves]);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(cut.max(1));
            let _ = read(&bytes);
        }
    }
}
