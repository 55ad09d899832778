//! The pool on a real kernel.

mod areas;
mod full;
mod give_back;
mod growth;
mod host_full;
mod identity;
mod lapses;
mod shared;
