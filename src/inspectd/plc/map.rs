//! Register map version 2, as one table. The manual's page, the symbol export and the memory's layout
//! all come from it.
//!
//! Addresses count from 0, as they stand in the PDU. Two-word values follow the configured word order.
//! Unit identifiers 0, 1 and 255 are station 1 and hold station n also at offset 1000 (n - 1); unit n is
//! station n. Source of function codes and limits: Modbus Application Protocol V1.1b3, section 6.
//!
//! Version 2 adds to version 1 and moves nothing: a PLC program for version 1 goes on as it is.
//!
//! Never here: values. Addresses are frozen; `tests/plc_wire.rs` holds them.

/// Version of this map, readable at [`input::MAP_VERSION`].
pub const VERSION: u16 = 2;
/// Offset of the next station for PLCs that cannot choose a unit identifier.
pub const STATION_STRIDE: u16 = 1000;
/// Holding register of input register 0: the whole table can be read there too, by PLCs that read nothing else.
pub const MIRROR: u16 = 100;
/// Holding register that holds the discrete inputs as bits; it can be read with the mirror behind it.
pub const MIRROR_DISCRETE: u16 = 99;
const _: () = assert!(holding::SIZE <= MIRROR_DISCRETE && MIRROR + input::SIZE <= STATION_STRIDE);
/// Registers of a string: 32 characters.
pub const STRING_WORDS: u16 = 16;

/// The four Modbus tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Function codes 1, 5, 15.
    Coil,
    /// Function code 2.
    DiscreteInput,
    /// Function code 4.
    InputRegister,
    /// Function codes 3, 6, 16, 22, 23.
    HoldingRegister,
}

impl Table {
    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Table::Coil => "coil",
            Table::DiscreteInput => "discrete input",
            Table::InputRegister => "input register",
            Table::HoldingRegister => "holding register",
        }
    }

    /// First address in the numbering that counts from 1 and leads with the table's digit.
    pub fn conventional(self) -> u32 {
        match self {
            Table::Coil => 1,
            Table::DiscreteInput => 10_001,
            Table::InputRegister => 30_001,
            Table::HoldingRegister => 40_001,
        }
    }
}

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One bit.
    Bit,
    /// One word.
    U16,
    /// Two words.
    U32,
    /// Two words, IEEE 754 single precision.
    F32,
    /// [`STRING_WORDS`] words, two characters each, ended by a zero byte where it is shorter.
    Text,
}

impl Kind {
    /// Registers (or bits) that it takes.
    pub fn words(self) -> u16 {
        match self {
            Kind::Bit | Kind::U16 => 1,
            Kind::U32 | Kind::F32 => 2,
            Kind::Text => STRING_WORDS,
        }
    }

    /// Its name in IEC 61131-3.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bit => "BOOL",
            Kind::U16 => "UINT",
            Kind::U32 => "UDINT",
            Kind::F32 => "REAL",
            Kind::Text => "STRING(32)",
        }
    }
}

/// One place of the map.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its table.
    pub table: Table,
    /// Address in the PDU.
    pub address: u16,
    /// What it holds.
    pub kind: Kind,
    /// Symbol for PLC programs.
    pub symbol: &'static str,
    /// What it means.
    pub comment: &'static str,
}

macro_rules! table {
    ($module:ident, $table:ident, $size:literal, $doc:literal, [$($name:ident, $address:literal, $kind:ident, $symbol:literal, $comment:literal;)*]) => {
        #[doc = $doc]
        pub mod $module {
            /// How many places the table has; some are reserved and read as 0.
            pub const SIZE: u16 = $size;
            $(#[doc = $comment] pub const $name: u16 = $address;)*
            pub(super) const ENTRIES: &[super::Entry] = &[$(super::Entry {
                table: super::Table::$table,
                address: $address,
                kind: super::Kind::$kind,
                symbol: $symbol,
                comment: $comment,
            },)*];
        }
    };
}

table!(discrete, DiscreteInput, 16, "Discrete inputs: the reject signal and its companions as bits.", [
    REJECT, 0, Bit, "reject", "1: push the part out. 1 after start, before the first inspection and while faulted";
    PASS, 1, Bit, "pass", "1: the last result lets its part pass. Use only if result_trigger_id is the part's";
    READY, 2, Bit, "ready", "1: a trigger will be accepted";
    BUSY, 3, Bit, "busy", "1: a part is being inspected";
    FAULT, 4, Bit, "fault", "1: the station is in fault, see fault_code";
    OVERRUN, 5, Bit, "overrun", "1: a result was lost to the PLC: overwritten before a client read it, or no room for it; latched until clear_error";
    REVIEW, 6, Bit, "review", "1: the last verdict is Review";
    SIMULATED, 7, Bit, "simulated", "1: the station's camera is simulated: no real part is inspected";
    RESULT_VALID, 8, Bit, "result_valid", "1: the result block holds a part's result; where results are acknowledged: one that is not yet";
    COMMAND_BUSY, 9, Bit, "command_busy", "1: a command is being carried out";
    COMMAND_DONE, 10, Bit, "command_done", "1: the command whose bit stands was carried out; 0 again when all command bits are";
    COMMAND_FAILED, 11, Bit, "command_failed", "1: it was not, see command_fault_code; 0 again when all command bits are";
    OFFLINE, 12, Bit, "is_offline", "1: the PLC has taken the station offline, and no part is in hand";
    ERROR, 13, Bit, "error", "1: something went wrong since the last clear_error, see error_code";
    STOP_REQUEST, 14, Bit, "stop_request", "1: stop the line: too many rejects, or a challenge part was not rejected; latched until clear_error";
    BYPASS, 15, Bit, "is_bypassed", "1: the PLC says that it lets parts pass whatever their result";
]);

table!(input, InputRegister, 96, "Input registers: life, state, the result block, counters.", [
    MAP_VERSION, 0, U16, "map_version", "version of this map: 2";
    ALIVE, 1, U16, "alive", "+1 every 250 ms while the output loop runs";
    CHAIN, 2, U16, "chain", "+1 every 250 ms only while scorer and camera proved themselves within 2 s: interlock on it";
    STATE, 3, U16, "state", "bit 0 ready, 1 busy, 2 fault, 3 armed, 4 camera cannot prove life when idle, 5 simulated, 6 provisional thresholds, 7 Review passes at the gate, 8 overrun, 9 missed trigger (both until clear_error), 10 model fell back to a less preferred execution provider";
    FAULT_CODE, 4, U16, "fault_code", "why the station is in fault or not ready, 0: it is not";
    ACCEPTED_TRIGGER_ID, 5, U16, "accepted_trigger_id", "trigger_id that was accepted last; 0: none yet";
    HANDSHAKE, 6, U16, "handshake", "discrete inputs 8 to 15 as bits 0 to 7; bit 8: the next part is a challenge, bit 9: a challenge is due";
    COMMAND_FAULT_CODE, 7, U16, "command_fault_code", "why the command failed, 0: it did not";
    ERROR_CODE, 8, U16, "error_code", "first fault code since the last clear_error, of a part or of the handshake; 0: none";
    RESULTS_WAITING, 9, U16, "results_waiting", "results behind the one in the block, where results are acknowledged";
    RECIPE_ACTIVE, 10, U16, "recipe_active", "number of the recipe in service, 0: the station's own settings";
    RESULT_SEQUENCE, 16, U16, "result_sequence", "first word of the result block: changes whenever the block does, 1 to 65535";
    RESULT_TRIGGER_ID, 17, U16, "result_trigger_id", "the trigger_id that this result belongs to; 0: to no part";
    VERDICT, 18, U16, "verdict", "1 pass, 2 review, 3 reject, 4 fault; anything else: treat as reject";
    GATE, 19, U16, "gate", "1 let the part pass, 2 push it out; anything else: push it out";
    RESULT_FAULT_CODE, 20, U16, "result_fault_code", "fault code of this result, 0: verdict is no fault";
    RESULT_STATE, 21, U16, "result_state", "the bits of state at the time of this result";
    PART, 22, U32, "part", "number of the part at this station, never used again";
    SCORE, 24, F32, "score", "highest score of the part's views divided by its reject threshold: 1.00 is the limit; NaN: no score";
    REVIEW_LIMIT, 26, F32, "review_limit", "review threshold divided by reject threshold";
    TOTAL_US, 28, U32, "total_us", "trigger to result, microseconds";
    MODEL, 30, U32, "model", "first 32 bits of the SHA-256 of the first view's model file";
    RECIPE, 32, U16, "recipe", "recipe that judged this part, 0: the station's own settings";
    VIEWS, 33, U16, "views", "views that gave a score";
    RESULT_SEQUENCE_END, 34, U16, "result_sequence_end", "last word of the result block: equal to result_sequence, else read again";
    RESULT_ENCODER, 36, U32, "result_encoder", "the part's encoder as it was written with its trigger, 0: none";
    RESULT_PRODUCT, 38, U16, "result_product", "the part's product as it stood at its trigger";
    RESULT_KIND, 39, U16, "result_kind", "1 a part, 2 a challenge part: gate 2 whatever its verdict";
    ACCEPTED, 48, U32, "accepted", "triggers accepted since start or reset_counters";
    PASSED, 50, U32, "passed", "verdict pass since start or reset_counters";
    REVIEWED, 52, U32, "reviewed", "verdict review since start or reset_counters";
    REJECTED, 54, U32, "rejected", "verdict reject since start or reset_counters";
    FAULTED, 56, U32, "faulted", "verdict fault since start or reset_counters";
    LATE, 58, U32, "late", "faults because of the deadline, since start or reset_counters";
    MISSED, 60, U32, "missed", "ids that were not accepted (a part in hand, not armed, offline, or stopping), since start or reset_counters";
    OVERRUNS, 62, U32, "overruns", "results lost to the PLC: overwritten unread, or no room for them, since start or reset_counters";
    NOT_JOURNALED, 64, U32, "not_journaled", "results that the journal could not take, since start or reset_counters";
    WRONG_ACKNOWLEDGEMENTS, 66, U32, "wrong_acknowledgements", "acknowledgements of a result that was not there, since start or reset_counters";
    CHALLENGES, 68, U32, "challenges", "challenge parts since start or reset_counters; they count nowhere else but in accepted";
    CHALLENGES_FAILED, 70, U32, "challenges_failed", "challenge parts that were not rejected, since start or reset_counters";
    RESULT_SERIAL, 80, Text, "result_serial", "the part's serial as it was written with its trigger";
]);

table!(holding, HoldingRegister, 24, "Holding registers: what the PLC writes.", [
    TRIGGER_ID, 0, U16, "trigger_id", "write 0 once after the daemon's start, then each part's id, 1 to 65535: a change is the trigger";
    RESULT_ACKNOWLEDGED, 1, U16, "result_acknowledged", "write the result_sequence that was read: the next result may come into the block; 0 has no effect";
    CONTROL, 2, U16, "control", "the coils as bits 0 to 15";
    RECIPE_REQUEST, 3, U16, "recipe_request", "number of the recipe that load_recipe brings into service";
    PRODUCT, 4, U16, "product", "kind of the parts, for records; stands until it is written again";
    ENCODER, 6, U32, "encoder", "where the part is; write before or with its trigger_id, taken by that trigger";
    SERIAL, 8, Text, "serial", "the part's serial; write before or with its trigger_id, taken by that trigger";
]);

table!(coil, Coil, 16, "Coils: what the PLC asks for, bit by bit. 0 and 1 are levels, 8 and up commands: raise one, wait for command_done or command_failed, drop it.", [
    OFFLINE, 0, Bit, "offline", "1: take the station offline after the part in hand";
    BYPASS, 1, Bit, "bypass", "1: the PLC lets parts pass whatever their result; shown and recorded, nothing else";
    CLEAR_ERROR, 8, Bit, "clear_error", "command: clear error, overrun, missed trigger and stop_request";
    RESET_COUNTERS, 9, Bit, "reset_counters", "command: set the counters to 0";
    LOAD_RECIPE, 10, Bit, "load_recipe", "command: bring recipe_request into service";
    CHALLENGE, 11, Bit, "challenge", "command: the next part is a challenge, known to be bad";
    DISCARD_RESULTS, 12, Bit, "discard_results", "command: forget all results that are not acknowledged, after a restart of the PLC";
]);

/// Bits of `state` and `result_state`.
pub mod state_bit {
    /// A trigger will be accepted.
    pub const READY: u16 = 1 << 0;
    /// A part is being inspected.
    pub const BUSY: u16 = 1 << 1;
    /// The station is in fault.
    pub const FAULT: u16 = 1 << 2;
    /// The PLC has written 0 since the start.
    pub const ARMED: u16 = 1 << 3;
    /// The camera cannot prove life when idle.
    pub const UNPROVEN: u16 = 1 << 4;
    /// The camera is simulated.
    pub const SIMULATED: u16 = 1 << 5;
    /// Thresholds rest on too few goods.
    pub const PROVISIONAL: u16 = 1 << 6;
    /// Review passes at the gate.
    pub const REVIEW_PASSES: u16 = 1 << 7;
    /// A result was lost to the PLC.
    pub const OVERRUN: u16 = 1 << 8;
    /// A trigger was not accepted.
    pub const MISSED: u16 = 1 << 9;
    /// A less preferred execution provider runs the model.
    pub const FELL_BACK: u16 = 1 << 10;
}

/// Every place, table by table, in order of address.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    [coil::ENTRIES, discrete::ENTRIES, input::ENTRIES, holding::ENTRIES].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_places_overlap_and_all_lie_inside_their_table() {
        for entries in [coil::ENTRIES, discrete::ENTRIES, input::ENTRIES, holding::ENTRIES] {
            for pair in entries.windows(2) {
                assert!(pair[0].address + pair[0].kind.words() <= pair[1].address, "{:?}", pair[1]);
            }
        }
        let end = |e: &[Entry]| e.last().map(|e| e.address + e.kind.words());
        assert_eq!(end(discrete::ENTRIES), Some(discrete::SIZE));
        assert_eq!(end(input::ENTRIES), Some(input::SIZE));
        assert_eq!(end(holding::ENTRIES), Some(holding::SIZE));
        assert!(end(coil::ENTRIES) <= Some(coil::SIZE));
    }

    #[test]
    fn comments_can_stand_in_csv_and_markdown() {
        assert!(entries().all(|e| !e.comment.contains(['"', '|', '\n'])));
    }
}
