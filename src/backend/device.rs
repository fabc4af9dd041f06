//! Which backend computes: what the user asked for, and what this machine has.

use std::str::FromStr;

#[cfg(feature = "gpu")]
use std::sync::{Mutex, PoisonError};

use super::BackendError;
#[cfg(feature = "gpu")]
use super::gpu::{Gpu, Options};

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// a GPU if there is a real one, else the CPU
    #[default]
    Auto,
    /// a GPU or nothing
    Gpu,
    /// the CPU
    Cpu,
}

/// Not a choice of backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no backend: expected auto, gpu or cpu")]
pub struct NoChoice(String);

impl FromStr for Choice {
    type Err = NoChoice;
    fn from_str(text: &str) -> Result<Self, NoChoice> {
        match text {
            "auto" => Ok(Self::Auto),
            "gpu" => Ok(Self::Gpu),
            "cpu" => Ok(Self::Cpu),
            other => Err(NoChoice(other.to_owned())),
        }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
        })
    }
}

/// A backend that is ready. Which one it is changes no word of any result.
#[derive(Clone)]
pub enum Device {
    /// this machine's cores
    Cpu,
    /// an open GPU
    #[cfg(feature = "gpu")]
    Gpu(Gpu),
}

impl Device {
    /// Waits until what was released on it is wiped, as far as a later release
    /// would otherwise have to set it off. To be called when a job is over.
    pub fn settle(&self) {
        #[cfg(feature = "gpu")]
        if let Self::Gpu(gpu) = self {
            gpu.settle();
        }
    }
    /// Whether it can be lost while the process lives.
    pub fn can_be_lost(&self) -> bool {
        !matches!(self, Self::Cpu)
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => write!(f, "the CPU, {} threads", rayon::current_num_threads()),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.adapter().fmt(f),
        }
    }
}

/// A backend, and why it is not the one that would have been better.
pub struct Opened {
    /// where to compute
    pub device: Device,
    /// why no GPU was taken, if one was wanted
    pub fell_back: Option<BackendError>,
}

/// Opens what was chosen, once for the whole process, and again after a loss.
pub struct Devices {
    choice: Choice,
    #[cfg(feature = "gpu")]
    options: Options,
    #[cfg(feature = "gpu")]
    gpu: Mutex<Option<Gpu>>,
}

impl Devices {
    /// Nothing is opened before it is wanted. `memory` is how many bytes may be
    /// resident on a GPU, over all jobs.
    #[cfg_attr(not(feature = "gpu"), allow(unused_variables))] // no GPU, no memory of one
    pub fn new(choice: Choice, memory: Option<u64>) -> Self {
        Self {
            choice,
            #[cfg(feature = "gpu")]
            options: memory.map_or_else(Options::default, |memory| Options { memory, ..Options::default() }),
            #[cfg(feature = "gpu")]
            gpu: Mutex::new(None),
        }
    }

    /// Begins with a GPU that is open already; after a loss, `auto`.
    #[cfg(feature = "gpu")]
    pub fn of(gpu: Gpu) -> Self {
        Self { choice: Choice::Auto, options: Options::default(), gpu: Mutex::new(Some(gpu)) }
    }

    /// The backend to compute on now.
    ///
    /// # Errors
    /// A GPU was asked for by name and there is none.
    pub fn open(&self) -> Result<Opened, BackendError> {
        if self.choice == Choice::Cpu {
            return Ok(Opened { device: Device::Cpu, fell_back: None });
        }
        match self.open_gpu() {
            Err(error) if self.choice == Choice::Auto => Ok(Opened { device: Device::Cpu, fell_back: Some(error) }),
            opened => Ok(Opened { device: opened?, fell_back: None }),
        }
    }

    #[cfg(feature = "gpu")]
    fn open_gpu(&self) -> Result<Device, BackendError> {
        let mut open = self.gpu.lock().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(gpu) if gpu.fault().is_none() => Ok(Device::Gpu(gpu.clone())),
            lost => {
                if lost.is_some() {
                    tracing::warn!("the GPU was lost and is opened again");
                }
                *open = None;
                Ok(Device::Gpu(open.insert(Gpu::open(self.options)?).clone()))
            }
        }
    }

    #[cfg(not(feature = "gpu"))]
    fn open_gpu(&self) -> Result<Device, BackendError> {
        Err(BackendError { backend: "gpu", reason: "this build lacks the cargo feature `gpu`".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_go_round_and_others_are_refused() {
        for choice in [Choice::Auto, Choice::Gpu, Choice::Cpu] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let error = "cuda".parse::<Choice>().unwrap_err().to_string();
        assert_eq!(error, "\"cuda\" is no backend: expected auto, gpu or cpu");
    }

    #[test]
    fn auto_takes_no_software_and_says_why() {
        let opened = Devices::new(Choice::Cpu, None).open().unwrap();
        assert!(matches!(opened.device, Device::Cpu) && opened.fell_back.is_none());
        // What it takes depends on the machine; with nothing but software, or
        // nothing at all, it is the CPU.
        let devices = Devices::new(Choice::Auto, None);
        let opened = devices.open().unwrap();
        match (&opened.device, opened.fell_back, devices.open_gpu()) {
            (Device::Cpu, Some(why), Err(_)) => {
                assert!(why.to_string().starts_with("the gpu backend failed: "), "{why}")
            }
            #[cfg(feature = "gpu")]
            (Device::Gpu(gpu), None, Ok(_)) => {
                assert!(
                    !gpu.adapter().software || std::env::var_os(crate::backend::gpu::adapter::ALLOW_SOFTWARE).is_some()
                );
            }
            (device, ..) => panic!("{device} was taken"),
        }
    }
}
