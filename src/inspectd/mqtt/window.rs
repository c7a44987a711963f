//! Which published messages the broker has acknowledged, and how far without a gap.
//!
//! rumqttc numbers a message only when it sends it: messages are held in the order of publishing, get their
//! packet ids in that order, and leave from the front once acknowledged. The window is measured from the
//! oldest message not acknowledged, so that no packet id is used while an older holder of it is open.
//!
//! Never here: the network.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::clock;
use crate::journal::Committed;

/// The broker or the client broke the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WindowError {
    /// Sent something that was not published.
    #[error("packet {0} was sent but not published")]
    NotPublished(u16),
    /// Acknowledged something that is not open.
    #[error("packet {0} was acknowledged but is not open")]
    NotOpen(u16),
}

struct Sent {
    /// The record it carries, if it is one.
    record: Option<Committed>,
    since: Instant,
    acknowledged: bool,
}

/// Messages from the oldest not acknowledged to the newest published.
#[derive(Default)]
pub(super) struct Window {
    messages: VecDeque<Sent>,
    /// Number of the front message.
    first: u64,
    /// Number of the next message to get a packet id.
    unnumbered: u64,
    open: HashMap<u16, u64>,
}

impl Window {
    /// Messages published and not yet behind the front.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// When the oldest open message was published.
    pub fn oldest(&self) -> Option<Instant> {
        self.messages.front().map(|m| m.since)
    }

    /// A message was given to the client.
    pub fn published(&mut self, record: Option<Committed>) {
        self.messages.push_back(Sent { record, since: clock::now(), acknowledged: false });
    }

    /// The client sent the next message under this packet id.
    pub fn numbered(&mut self, packet: u16) -> Result<(), WindowError> {
        if self.unnumbered >= self.first + self.messages.len() as u64 {
            return Err(WindowError::NotPublished(packet));
        }
        self.open.insert(packet, self.unnumbered);
        self.unnumbered += 1;
        Ok(())
    }

    /// The broker acknowledged a packet. Returns the newest record that is now delivered with all before it.
    pub fn acknowledged(&mut self, packet: u16) -> Result<Option<Committed>, WindowError> {
        let number = self.open.remove(&packet).ok_or(WindowError::NotOpen(packet))?;
        let index = number.checked_sub(self.first).ok_or(WindowError::NotOpen(packet))?;
        let message = self.messages.get_mut(index as usize).ok_or(WindowError::NotOpen(packet))?;
        message.acknowledged = true;
        let mut delivered = None;
        while self.messages.front().is_some_and(|m| m.acknowledged) {
            let record = self.messages.pop_front().and_then(|m| m.record);
            delivered = record.or(delivered);
            self.first += 1;
        }
        Ok(delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    proptest! {
        /// Whatever the order of acknowledgements, the cursor is the end of the gapless front.
        #[test]
        fn the_cursor_never_passes_a_gap(
            kinds in prop::collection::vec(any::<bool>(), 1..60),
            order in any::<prop::sample::Index>().prop_perturb(|_, mut rng| rng.next_u64()),
            keep in 0.0f64..1.0,
        ) {
            let journal = Uuid::nil();
            let mut window = Window::default();
            for (i, &record) in kinds.iter().enumerate() {
                window.published(record.then_some(Committed { journal, sequence: i as u64 + 1 }));
                window.numbered(i as u16 + 1).unwrap();
            }
            let mut packets: Vec<u16> = (1..=kinds.len() as u16).collect();
            let mut state = order | 1;
            for i in (1..packets.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                packets.swap(i, (state >> 33) as usize % (i + 1));
            }
            packets.truncate((packets.len() as f64 * keep) as usize);
            let mut acknowledged = vec![false; kinds.len()];
            let mut cursor = 0;
            for packet in packets {
                acknowledged[usize::from(packet) - 1] = true;
                if let Some(delivered) = window.acknowledged(packet).unwrap() {
                    prop_assert!(delivered.sequence > cursor);
                    cursor = delivered.sequence;
                }
                let front = acknowledged.iter().take_while(|&&a| a).count();
                let expected = (0..front).rev().find(|&i| kinds[i]).map_or(0, |i| i as u64 + 1);
                prop_assert_eq!(cursor, expected);
                prop_assert_eq!(window.len(), kinds.len() - front);
                prop_assert_eq!(window.acknowledged(packet), Err(WindowError::NotOpen(packet)));
            }
        }
    }

    #[test]
    fn what_was_not_published_cannot_be_sent() {
        let mut window = Window::default();
        assert_eq!(window.numbered(1), Err(WindowError::NotPublished(1)));
    }
}
