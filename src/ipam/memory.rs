//! How much of what a host once promised its store still knows.

/// Whether what a host knows of its own grants is all there is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Its ring was on disk.
    Whole,
    /// Nothing was, and nobody has looked yet for traces of an earlier life. What rests for that reason has this number.
    Unproven(Option<u64>),
    /// Nothing was, and it left no trace: it is new, as far as is known.
    New,
    /// It lived before. What it gave away last, before the store was lost, may have been heard by few.
    Lost,
    /// It lived on after what was on disk. What it gave away since may have been heard by few.
    SetBack,
}
