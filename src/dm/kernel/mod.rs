//! Kernels: what one is ([`Kernel`]), the running one, the modelled one, and those that wrap
//! another one. A kernel runs requests and does not know what they are for.

mod api;
mod counting;
#[cfg(any(test, feature = "model"))]
mod fault_plan;
#[cfg(any(test, feature = "model"))]
mod faulty;
pub(in crate::dm) mod ioctl;
mod kmsg;
mod logging;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod real;

pub use api::{EventSource, Kernel, Noticed, PoolLog};
pub use counting::CountingKernel;
#[cfg(any(test, feature = "model"))]
pub use fault_plan::{Fault, FaultPlan, Verdict};
#[cfg(any(test, feature = "model"))]
pub use faulty::FaultyKernel;
pub use logging::{LogLevel, LogSink, LoggingKernel, TracingSink};
pub use real::{RealKernel, NODE_DIR, OLDEST_DRIVER};
