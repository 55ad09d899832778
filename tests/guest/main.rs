//! Tests on a real kernel with dm-thin: one program for all. Each module is run in a guest of its
//! own by `tests/run guest`, with the options of its line `// guest:`; see tests/README.md.
//!
//! | shelf | what is tested there |
//! |---|---|
//! | `dm` | the device-mapper library |
//! | `block` | disks, loop devices, mounts |
//! | `fs` | making, growing and repairing file systems; hostile ones |
//! | `pool` | the pool: its areas, its space, who else uses it |
//! | `store` | the database's file |
//! | `snapshotter` | snapshots: what they cost, their sizes, labels, numbers; `check` |
//! | `service` | the daemon from outside: its calls, its metrics, its start |

mod block;
mod dm;
mod fs;
mod lab;
mod pool;
mod service;
mod snapshotter;
mod store;
