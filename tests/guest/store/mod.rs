//! The database's file, with a daemon on it.

mod database;
