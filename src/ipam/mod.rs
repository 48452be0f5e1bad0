//! Who owns which addresses: the ring, how it is first agreed on, and what is handed out of it.
