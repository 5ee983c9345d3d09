//! Which of the server's errors are the fault of a row.

/// An error code that can depend on a row's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataError {
    /// The server's code.
    pub code: i32,
    /// The code's name.
    pub name: &'static str,
    /// Why it may be a row's fault.
    pub why: &'static str,
}

/// The codes for which a batch is split in search of the row to blame. Everything else is the server's
/// fault, ours or its owner's, and is waited out: a row that is taken for poison by mistake is lost from
/// the table, one that is retried by mistake only waits.
///
/// What is *not* here on purpose: errors that every row of every batch would share (unknown table or column,
/// types that don't fit: 16, 53, 60, 70), resources (159, 241, 252, 243), replication (242, 319) and the
/// network (209, 210). 252 is both "too many parts" and "too many partitions in one block"; the first is the
/// server's state, and the second cannot happen to batches planned a few partitions wide.
pub const DATA_ERRORS: &[DataError] = &[
    DataError { code: 6, name: "CANNOT_PARSE_TEXT", why: "a value is not text of its column's type" },
    DataError {
        code: 26,
        name: "CANNOT_PARSE_QUOTED_STRING",
        why: "a value is not text of its column's type",
    },
    DataError {
        code: 27,
        name: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
        why: "a value is not text of its column's type",
    },
    DataError { code: 38, name: "CANNOT_PARSE_DATE", why: "a value is no date" },
    DataError { code: 41, name: "CANNOT_PARSE_DATETIME", why: "a value is no time" },
    DataError { code: 69, name: "ARGUMENT_OUT_OF_BOUND", why: "a view or constraint cannot take a value" },
    DataError { code: 72, name: "CANNOT_PARSE_NUMBER", why: "a value is no number" },
    DataError { code: 117, name: "INCORRECT_DATA", why: "the encoded rows are inconsistent" },
    DataError { code: 128, name: "TOO_LARGE_ARRAY_SIZE", why: "a row's array is beyond the server's limit" },
    DataError { code: 131, name: "TOO_LARGE_STRING_SIZE", why: "a row's text is beyond the server's limit" },
    DataError { code: 153, name: "ILLEGAL_DIVISION", why: "a view of the user's divides by a row's value" },
    DataError {
        code: 321,
        name: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
        why: "a value does not fit its column",
    },
    DataError { code: 349, name: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN", why: "a value is missing" },
    DataError {
        code: 395,
        name: "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
        why: "a view of the user's rejects a row",
    },
    DataError { code: 407, name: "DECIMAL_OVERFLOW", why: "a value does not fit its column" },
    DataError { code: 469, name: "VIOLATED_CONSTRAINT", why: "a constraint of the user's rejects a row" },
    DataError { code: 691, name: "UNKNOWN_ELEMENT_OF_ENUM", why: "a value is none of its column's names" },
];

/// Whether splitting the batch can find a row to blame for the error.
#[must_use]
pub fn is_data_error(code: i32) -> bool {
    DATA_ERRORS.iter().any(|error| error.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_trouble_never_makes_dead_letters() {
        for (code, name) in [
            (159, "TIMEOUT_EXCEEDED"),
            (241, "MEMORY_LIMIT_EXCEEDED"),
            (252, "TOO_MANY_PARTS"),
            (242, "TABLE_IS_READ_ONLY"),
            (60, "UNKNOWN_TABLE"),
            (16, "NO_SUCH_COLUMN_IN_TABLE"),
            (53, "TYPE_MISMATCH"),
            (243, "NOT_ENOUGH_SPACE"),
            (999, "KEEPER_EXCEPTION"),
        ] {
            assert!(!is_data_error(code), "{name}");
        }
        assert!(is_data_error(469));
    }
}
