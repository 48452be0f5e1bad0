//! Netlink messages as they come, where no more of them is read than a number or two.

/// Where a message begins, behind its `struct nlmsghdr`.
pub(super) const BODY: usize = 16;
/// Length of `struct nfgenmsg`.
pub(super) const NFGEN_LEN: usize = 4;

/// The kind of a message.
pub(super) fn kind(message: &[u8]) -> Option<u16> {
    half(message, 4)
}

/// What an attribute of this kind holds, a number of 32 bits in whatever order; the first one begins at `at`.
pub(super) fn attribute(message: &[u8], mut at: usize, wanted: u16) -> Option<[u8; 4]> {
    loop {
        let (len, kind) = (half(message, at)?, half(message, at + 2)?);
        if kind == wanted {
            return word(message, at + 4);
        }
        at += usize::from(len).max(4).next_multiple_of(4);
    }
}

/// Four bytes.
pub(super) fn word(message: &[u8], at: usize) -> Option<[u8; 4]> {
    message.get(at..at + 4)?.try_into().ok()
}

fn half(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_among_others_and_not_beyond_the_end() {
        let name = [&9u16.to_ne_bytes()[..], &3u16.to_ne_bytes(), b"nft\0\0\0\0\0"].concat();
        let number = [&8u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), &7u32.to_be_bytes()].concat();
        assert_eq!(attribute(&[name.clone(), number.clone()].concat(), 0, 1), Some([0, 0, 0, 7]));
        assert_eq!(attribute(&name, 0, 1), None);
        assert_eq!(attribute(&number[..6], 0, 1), None);
        assert_eq!(attribute(&[0; 16], 0, 1), None);
    }
}
