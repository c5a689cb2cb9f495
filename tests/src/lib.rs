//! Nothing to link against: this package is the programs in `programs/` and the tests in
//! `integration/`.
