//! Numbers that only go up, and how far that of somebody else is believed.
//!
//! Of two things that one peer said, or many agreed on, the one with the higher number counts. Whoever has the last number of all could
//! say nothing that would be heard, so nobody is to be brought there by what a third says. Up to a half a number is believed as it is: no
//! honest history comes so far. Above it believing goes in steps, one a message, from what is known or from where a higher number was
//! refused: so a peer to whom a false number was ascribed goes above that and has room for it, whoever heard the false one and whoever
//! did not.

/// No honest history reaches a higher number.
pub const HONEST_MAX: u64 = u64::MAX / 2;
/// The longest step: what somebody leaves out who decides alone about the dead, and more than anybody counts between two messages.
pub const STEP_MAX: u64 = 1 << 33;

/// Where a number was refused last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Believed(u64);

impl Believed {
    /// The highest number that is believed where this one is known.
    pub fn up_to(self, known: u64) -> u64 {
        known.max(self.0).max(HONEST_MAX).saturating_add(STEP_MAX)
    }

    /// A higher one was refused.
    pub fn refuse(&mut self, known: u64) {
        self.0 = self.up_to(known);
    }

    /// So far it was believed before.
    pub fn reach(&mut self, known: u64) {
        self.0 = self.0.max(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_of_all_is_reached_by_no_message_and_whoever_was_brought_high_has_room() {
        let mut believed = Believed::default();
        assert!(believed.up_to(7) < u64::MAX);
        let made_up = believed.up_to(7);
        assert!(believed.up_to(made_up) > made_up, "the truth stands above it");
        // One that never heard of it.
        believed.refuse(7);
        assert!(believed.up_to(7) > made_up);
    }
}
