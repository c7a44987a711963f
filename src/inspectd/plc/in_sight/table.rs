//! In-Sight's Modbus map as one table: each place, what it means here, and how like In-Sight's that is. The
//! manual's page, the symbol export and the memory's layout all come from it.
//!
//! Bit n of *control* is coil n, bit n of *status* discrete input n; both stand as two registers too, the low
//! one first. Sources: each block's [`Area::source`]; the bits, words and their meaning: Cognex, In-Sight
//! Explorer Help 6.1.1, Modbus TCP Factory Interface (5.3.0 or later).
//!
//! Never here: values; a claim that an In-Sight camera, or a program written for one, was tried.

use crate::plc::map::Table;

/// How a place here goes with In-Sight's description of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// As it is described there.
    Same,
    /// The same purpose, with a difference that the comment tells.
    Differs,
    /// Not there: reads 0, and writing it does nothing unless the comment says more.
    Absent,
}

impl Likeness {
    /// Its name in the manual.
    pub fn name(self) -> &'static str {
        match self {
            Likeness::Same => "same",
            Likeness::Differs => "differs",
            Likeness::Absent => "absent",
        }
    }
}

/// In-Sight's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// 32 bits that the PLC writes.
    Control,
    /// 32 bits that it reads.
    Status,
    /// Words that it writes.
    Input,
    /// Words that it reads.
    Output,
    /// A native command as text.
    StringCommand,
    /// What came of it.
    StringResult,
}

/// Where a block stands.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    /// Which.
    pub block: Block,
    /// Its name in Cognex's documentation.
    pub name: &'static str,
    /// Its first table.
    pub table: Table,
    /// Its first address there.
    pub address: u16,
    /// Places there.
    pub size: u16,
    /// Its first holding register.
    pub holding: u16,
    /// Holding registers.
    pub words: u16,
    /// The PLC can write it.
    pub writable: bool,
    /// Where its addresses are known from.
    pub source: &'static str,
}

macro_rules! areas {
    ($($block:ident, $name:literal, $table:ident, $address:literal, $size:literal, $holding:literal, $words:literal, $writable:literal, $source:literal;)*) => {
        /// All blocks. None overlaps another.
        pub const AREAS: &[Area] = &[$(Area {
            block: Block::$block,
            name: $name,
            table: Table::$table,
            address: $address,
            size: $size,
            holding: $holding,
            words: $words,
            writable: $writable,
            source: $source,
        },)*];
    };
}

areas!(
    Control, "Vision Control", Coil, 0, 32, 0, 2, true, "confirmed: Cognex support article (coil 17 is holding register 0, bit 17); one program for In-Sight cameras uses the coils, another the registers";
    Status, "Vision Status", DiscreteInput, 0, 32, 100, 2, false, "confirmed: Cognex support article (discrete input 17 is holding register 100, bit 17); one program for In-Sight cameras uses the discrete inputs, another the registers";
    StringCommand, "String Command", HoldingRegister, 1000, 1000, 1000, 1000, true, "confirmed: Cognex support article";
    Input, "Input", HoldingRegister, 2000, 2001, 2000, 2001, true, "not confirmed by a text of Cognex's: two programs for In-Sight cameras have holding register 2000";
    StringResult, "String Command Result", InputRegister, 1000, 1000, 6000, 1000, false, "confirmed: Cognex support article";
    Output, "Output", InputRegister, 2000, 2005, 7000, 2005, false, "not confirmed by a text of Cognex's: two programs for In-Sight cameras read from holding register 7000 on; input register 2000 follows as 1000 does from 6000";
);

/// One place.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its block.
    pub block: Block,
    /// Bit, or word, of the block.
    pub at: u16,
    /// Bits, or words.
    pub size: u16,
    /// Type in IEC 61131-3.
    pub kind: &'static str,
    /// Cognex's name for it, without blanks.
    pub symbol: &'static str,
    /// How it goes with In-Sight's.
    pub likeness: Likeness,
    /// What it means here.
    pub comment: &'static str,
}

macro_rules! block {
    ($module:ident, $block:ident, $doc:literal, [$($name:ident, $at:literal, $size:literal, $kind:literal, $symbol:literal, $likeness:ident, $comment:literal;)*]) => {
        #[doc = $doc]
        pub mod $module {
            $(#[doc = $comment] pub const $name: u16 = $at;)*
            pub(super) const ENTRIES: &[super::Entry] = &[$(super::Entry {
                block: super::Block::$block,
                at: $at,
                size: $size,
                kind: $kind,
                symbol: $symbol,
                likeness: super::Likeness::$likeness,
                comment: $comment,
            },)*];
        }
    };
}

block!(control, Control, "Bits that the PLC writes.", [
    TRIGGER_ENABLE, 0, 1, "BOOL", "TriggerEnable", Differs, "1: Trigger is obeyed. 0 after a start. A rise also forgets all results of earlier triggers, so that a program that starts anew takes none for its own";
    TRIGGER, 1, 1, "BOOL", "Trigger", Same, "a rise is the trigger, if TriggerEnable stood before and TriggerReady is 1; hold it until TriggerAck";
    BUFFER_RESULTS_ENABLE, 2, 1, "BOOL", "BufferResultsEnable", Differs, "not obeyed: the setting results of the station decides; a contradiction is logged";
    INSPECTION_RESULTS_ACK, 3, 1, "BOOL", "InspectionResultsAck", Differs, "a rise acknowledges the result that stands, if it was read; ResultsValid is 0 as long as this is 1; without a result: nothing";
    EXECUTE_COMMAND, 4, 1, "BOOL", "ExecuteCommand", Differs, "a rise brings the recipe of number Command into service, between two parts; In-Sight must be offline for that, here it need not";
    SET_OFFLINE, 7, 1, "BOOL", "SetOffline", Same, "1: offline, after the part in hand";
    SET_USER_DATA, 16, 1, "BOOL", "SetUserData", Absent, "SetUserDataAck never comes: a program that needs user data stops here";
    INITIATE_STRING_CMD, 17, 1, "BOOL", "InitiateStringCmd", Absent, "answered by StringCmdAck and StringCmdError";
    CLEAR_ERROR, 18, 1, "BOOL", "ClearError", Differs, "a rise clears Error, ErrorCode and MissedAcq, also BufferOverrun and stop_request";
    CLEAR_EXPOSURE_COMPLETE, 19, 1, "BOOL", "ClearExposureComplete", Absent, "nothing";
    SOFT_EVENT, 24, 8, "BOOL", "SoftEvent0", Absent, "nothing (SoftEvent0 to 7, bits 24 to 31; ExternalEvent in newer firmware)";
]);

block!(status, Status, "Bits that the PLC reads.", [
    TRIGGER_READY, 0, 1, "BOOL", "TriggerReady", Differs, "1: a trigger will be accepted. 0 from the trigger to its result, not only while the image is taken";
    TRIGGER_ACK, 1, 1, "BOOL", "TriggerAck", Same, "1: this rise of Trigger was accepted, AcquisitionID is its part's; 0 when Trigger is. Never 1 for a missed trigger";
    MISSED_ACQ, 3, 1, "BOOL", "MissedAcq", Same, "1: a trigger was not accepted; 0 with the next that is, when TriggerEnable changes, and by ClearError (AcqError in newer firmware)";
    OFFLINE_REASON, 4, 3, "BOOL", "OfflineReason", Differs, "bits 4 to 6 as a number: 0 online, 3 SetOffline, 7 the station is in fault (fault_code of the native map tells why). In-Sight's numbers are not confirmed";
    ONLINE, 7, 1, "BOOL", "Online", Differs, "1: neither offline nor in fault. After a start 0 until camera and model are there";
    SYSTEM_BUSY, 8, 1, "BOOL", "SystemBusy", Differs, "1: a part is in hand, or a recipe is coming into service";
    INSPECTION_COMPLETED, 9, 1, "BOOL", "InspectionCompleted", Same, "changes with each result, 0 to 1 or 1 to 0: no level";
    BUFFER_OVERRUN, 10, 1, "BOOL", "BufferOverrun", Differs, "1: a result was lost to the PLC. Stands until ClearError, and JobPass is 0 as long: results no longer come one for each trigger";
    RESULTS_VALID, 11, 1, "BOOL", "ResultsValid", Same, "1: words 3 to 10 of the output block and JobPass are a result that is not acknowledged";
    CMD_EXECUTING, 12, 1, "BOOL", "CmdExecuting", Same, "1: a recipe is coming into service";
    CMD_COMPLETED, 13, 1, "BOOL", "CmdCompleted", Same, "1: it is in service; 0 when ExecuteCommand is";
    CMD_FAILED, 14, 1, "BOOL", "CmdFailed", Same, "1: it is not, see ErrorCode; 0 when ExecuteCommand is";
    ERROR, 15, 1, "BOOL", "Error", Same, "1: ErrorCode is not 0";
    SET_USER_DATA_ACK, 16, 1, "BOOL", "SetUserDataAck", Absent, "0";
    STRING_CMD_ACK, 17, 1, "BOOL", "StringCmdAck", Absent, "as InitiateStringCmd, so that no program waits for ever";
    STRING_CMD_ERROR, 18, 1, "BOOL", "StringCmdError", Absent, "as InitiateStringCmd: no text command is carried out";
    EXPOSURE_COMPLETE, 19, 1, "BOOL", "ExposureComplete", Absent, "0: do not move the part before ResultsValid";
    JOB_PASS, 20, 1, "BOOL", "JobPass", Differs, "1: let the part of InspectionID pass. Only while ResultsValid is 1 and BufferOverrun 0; where results are not acknowledged only while InspectionID is AcquisitionID; 0 in fault";
    SOFT_EVENT_ACK, 24, 8, "BOOL", "SoftEventAck0", Absent, "0 (bits 24 to 31)";
]);

block!(input, Input, "Words that the PLC writes.", [
    COMMAND, 0, 1, "UINT", "Command", Same, "number of the recipe (In-Sight: job) that ExecuteCommand brings into service";
    USER_DATA, 1, 2000, "WORD", "UserData", Absent, "taken and forgotten";
]);

block!(output, Output, "Words that the PLC reads.", [
    CURRENT_JOB_ID, 0, 1, "UINT", "CurrentJobID", Same, "number of the recipe in service, 0: the station's own settings";
    ERROR_CODE, 1, 1, "UINT", "ErrorCode", Differs, "first error since ClearError: 16#100 trigger while TriggerEnable was 0, 16#101 while offline, 16#400 command while one is executed, 16#402 no recipe of this number (a command's only while ExecuteCommand stands); else a fault code of the native map, below 16#100";
    ACQUISITION_ID, 2, 1, "UINT", "AcquisitionID", Same, "id of the part accepted last; 0: none yet; 1 follows 65535";
    INSPECTION_ID, 3, 1, "UINT", "InspectionID", Differs, "AcquisitionID of the part whose result this is; 0 while ResultsValid is 0";
    RESULT_CODE, 4, 1, "UINT", "InspectionResultCode", Differs, "1 pass (only while JobPass is 1), 2 review, 3 push out, 4 fault or no result. In-Sight's is what the job says: change the comparison in the program";
    RESULT_FAULT_CODE, 5, 1, "UINT", "ResultFaultCode", Differs, "fault code of this result, 0: it is none. From here on In-Sight shows what the job says";
    SCORE, 6, 2, "REAL", "Score", Differs, "highest score divided by its reject threshold: 1.00 is the limit; NaN: no score. Word order as configured";
    PART, 8, 2, "UDINT", "Part", Differs, "number of the part at this station, 0: no result. Word order as configured";
    RECIPE, 10, 1, "UINT", "Recipe", Differs, "recipe that judged the part, 0: the station's own settings";
    NO_RESULTS, 11, 1994, "WORD", "InspectionResults", Absent, "0";
]);

block!(string_command, StringCommand, "A native command as text.", [
    STRING_COMMAND, 0, 1000, "WORD", "StringCommand", Absent, "taken and forgotten";
]);

block!(string_result, StringResult, "What came of it.", [
    RESULT_CODE, 0, 1, "UINT", "StringCommandResultCode", Absent, "16#2, bad command, while InitiateStringCmd stands; else 0";
    STRING_RESULT, 1, 999, "WORD", "StringCommandResult", Absent, "0";
]);

/// Words of the output block that hold something.
pub const SHOWN: usize = output::NO_RESULTS as usize;

/// ErrorCode of a trigger while TriggerEnable was 0. Source of these four: the table of error codes that a
/// program for In-Sight cameras took over from Cognex's help.
pub const TRIGGER_WHILE_DISABLED: u16 = 0x0100;
/// ErrorCode of a trigger while offline.
pub const TRIGGER_WHILE_OFFLINE: u16 = 0x0101;
/// ErrorCode of a command while another is executed.
pub const ALREADY_EXECUTING: u16 = 0x0400;
/// ErrorCode of a command whose job does not exist.
pub const NO_SUCH_JOB: u16 = 0x0402;
/// Result code of a text command that is none.
pub const BAD_COMMAND: u16 = 0x0002;

/// Every place, block by block, in order.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    let words = [input::ENTRIES, output::ENTRIES, string_command::ENTRIES, string_result::ENTRIES];
    [control::ENTRIES, status::ENTRIES].into_iter().chain(words).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_in_their_block_and_none_in_two() {
        for area in AREAS {
            let mut end = 0;
            for e in entries().filter(|e| e.block == area.block) {
                assert!(e.at >= end && e.size > 0, "{}", e.symbol);
                end = e.at + e.size;
            }
            assert!(end <= area.size, "{}", area.name);
        }
        for pair in AREAS.windows(2) {
            assert!(pair[0].holding + pair[0].words <= pair[1].holding, "{}", pair[1].name);
        }
    }

    #[test]
    fn comments_can_stand_in_csv_and_markdown() {
        assert!(entries().all(|e| !e.comment.contains(['"', '|', '\n'])));
        assert!(AREAS.iter().all(|a| !a.source.contains(['|', '\n'])));
    }
}
