//! The device-mapper library without a kernel: what goes over its ioctls, and the modelled kernel.
//! What needs a real one is below `tests/guest/dm`.
//!
//! | file | what it is |
//! |---|---|
//! | `codec`, `codec_fuzz` | requests and replies against the kernel's layout |
//! | `contract` | what every kernel does, real or modelled; `tests/guest/dm/contract.rs` runs it too |
//! | `contract_on_model` | the contract on the modelled kernel |
//! | `layout` | the kernel's side of the ioctl buffers |
//! | `model` | what the modelled kernel has beyond a real one |

mod codec;
mod codec_fuzz;
#[macro_use]
mod contract;
mod contract_on_model;
mod layout;
mod model;
