//! What a node remembers across a restart, as the keys and values of its store.

/// One change of the store. All changes of one save are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which record.
    pub key: String,
    /// Its new value; `None` removes it.
    pub value: Option<Vec<u8>>,
}
