//! The PLC side: the register map, the memory behind it, and the Modbus TCP server that serves it.
//!
//! Terms. A *result block* is what the PLC reads of one part; the *gate* pushes parts out; *armed* means
//! that the PLC has written `trigger_id` 0 since the daemon started; *alive* and *chain* are counters
//! that prove the output loop, and the whole way from camera to output.
//!
//! Why no `Plc` trait: the memory ([`registers::Registers`]) is the seam. A Modbus client and a simulated PLC
//! both read and write it, so there is nothing to swap.
//!
//! Never here: what a verdict is, when a part is inspected.

pub mod access;
pub mod handshake;
pub mod in_sight;
pub mod map;
pub mod pdu;
pub mod print;
pub mod reading;
pub mod registers;
pub mod requests;
pub mod result;
pub mod server;
pub mod settings;
pub mod sim;
pub mod state_table;
pub mod word_order;
pub mod words;
