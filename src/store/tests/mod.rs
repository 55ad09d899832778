//! Tests of the store, one story a file.

mod fixture;
mod records;
