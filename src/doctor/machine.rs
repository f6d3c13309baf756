//! CPU, memory, limits and container, as the kernel's files tell.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// Where the kernel's files are: `/`, or a folder of a test.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

/// The CPU.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// In the kernel's words.
    pub model: String,
    /// Cores of the machine that are on.
    pub cores: usize,
    /// Threads that may run at once here: affinity and the cgroup's quota count.
    pub usable: usize,
    /// Cores' worth of time that the cgroup allows.
    pub quota: Option<f64>,
    /// Those of [`FEATURES`] that it has.
    pub features: Vec<&'static str>,
    /// The architecture that visord was built for.
    pub architecture: &'static str,
}

/// Features that engines choose their kernels by: the kernel's word, and ours.
const FEATURES: [(&str, &str); 13] = [
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx_vnni", "VNNI"),
    ("avx512_vnni", "VNNI"),
    ("avx512_bf16", "BF16"),
    ("amx_int8", "AMX"),
    ("amx_bf16", "AMX BF16"),
    ("asimd", "NEON"),
    ("asimdhp", "FP16"),
    ("asimddp", "DotProd"),
    ("i8mm", "I8MM"),
    ("bf16", "BF16"),
    ("sve", "SVE"),
];

/// Memory, bytes.
#[derive(Debug, Default, Serialize)]
pub struct Memory {
    /// Of the machine.
    pub total_bytes: u64,
    /// What a new process can have, within the cgroup's bound.
    pub available_bytes: u64,
    /// The cgroup's bound.
    pub cgroup_bytes: Option<u64>,
}

/// Limits of the process; none means no limit.
#[derive(Debug, Default, Serialize)]
pub struct Limits {
    /// Open files.
    pub open_files: Option<u64>,
    /// The most that an unprivileged process may raise that to.
    pub open_files_hard: Option<u64>,
    /// Locked memory, bytes.
    pub locked_bytes: Option<u64>,
    /// Threads of this user.
    pub processes: Option<u64>,
    /// Threads in the cgroup.
    pub cgroup_pids: Option<u64>,
    /// Threads in the cgroup now.
    pub cgroup_pids_now: Option<u64>,
}

impl Root {
    /// Another root.
    #[cfg(test)]
    fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.0.join(path)).ok()
    }

    /// The CPU; `usable` is what the standard library says.
    #[must_use]
    pub fn cpu(&self, usable: usize) -> Cpu {
        let text = self.read("proc/cpuinfo").unwrap_or_default();
        let value = |name: &str| {
            let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = value("flags").or_else(|| value("Features")).unwrap_or_default();
        let mut features = Vec::new();
        for (flag, name) in FEATURES {
            if flags.split(' ').any(|f| f == flag) && !features.contains(&name) {
                features.push(name);
            }
        }
        let architecture = std::env::consts::ARCH;
        let model = value("model name").or_else(|| {
            Some(format!(
                "{architecture}, implementer {} part {}",
                value("CPU implementer")?,
                value("CPU part")?
            ))
        });
        Cpu {
            model: model.unwrap_or_else(|| architecture.to_owned()),
            cores: text.lines().filter(|l| l.starts_with("processor")).count().max(1),
            usable,
            quota: self.quota(),
            features,
            architecture,
        }
    }

    /// The files of the cgroup that this process is in, and of those above it, as far as they can be seen: `v2` is the
    /// name in the one hierarchy, `v1` that in `controller`'s own.
    fn cgroup(&self, controller: &str, v2: &str, v1: &str) -> Vec<String> {
        let text = self.read("proc/self/cgroup").unwrap_or_default();
        let mut found = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let (mount, file) = match controllers {
                "" => ("sys/fs/cgroup".to_owned(), v2),
                list if list.split(',').any(|c| c == controller) => {
                    let both = format!("sys/fs/cgroup/{list}");
                    let one = format!("sys/fs/cgroup/{controller}");
                    (if self.0.join(&both).is_dir() { both } else { one }, v1)
                }
                _ => continue,
            };
            // In a container the path may be the host's, and only the mount's top be there.
            for folder in Path::new(path.trim_start_matches('/')).ancestors() {
                let file = Path::new(&mount).join(folder).join(file);
                found.extend(self.read(&file.to_string_lossy()));
            }
        }
        found
    }

    fn quota(&self) -> Option<f64> {
        let cores = |quota: &str, period: f64| {
            quota.trim().parse::<f64>().ok().filter(|q| *q > 0.0).map(|q| q / period)
        };
        let v2 = self.cgroup("cpu", "cpu.max", "").into_iter().filter_map(|text| {
            let (quota, period) = text.trim().split_once(' ')?;
            cores(quota, period.parse().ok()?)
        });
        let period = self.cgroup("cpu", "", "cpu.cfs_period_us");
        let v1 = self.cgroup("cpu", "", "cpu.cfs_quota_us").into_iter().zip(period);
        let v1 = v1.filter_map(|(quota, period)| cores(&quota, period.trim().parse().ok()?));
        v2.chain(v1).min_by(f64::total_cmp)
    }

    /// Memory of the machine and of the cgroup.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let text = self.read("proc/meminfo").unwrap_or_default();
        let line = |name: &str| {
            let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
            rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
        };
        let total_bytes = line("MemTotal:").unwrap_or(0);
        let smallest = |v2: &str, v1: &str| {
            let numbers = self.cgroup("memory", v2, v1);
            numbers.iter().filter_map(|t| t.trim().parse::<u64>().ok()).min()
        };
        // Version 1 says "no limit" with a number beyond any memory.
        let cgroup_bytes = smallest("memory.max", "memory.limit_in_bytes").filter(|b| *b < total_bytes);
        let mut available_bytes = line("MemAvailable:").unwrap_or(0);
        if let Some(limit) = cgroup_bytes {
            let used = self.cgroup("memory", "memory.current", "memory.usage_in_bytes");
            let used = used.first().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
            // The page cache goes when it is needed.
            let stat = self.cgroup("memory", "memory.stat", "memory.stat");
            let cache = stat.first().and_then(|t| {
                let line = t.lines().find_map(|l| {
                    l.strip_prefix("inactive_file ").or_else(|| l.strip_prefix("total_inactive_file "))
                });
                line?.trim().parse::<u64>().ok()
            });
            let free = limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0)));
            available_bytes = available_bytes.min(free);
        }
        Memory { total_bytes, available_bytes, cgroup_bytes }
    }

    /// Limits of this process and of its cgroup.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let text = self.read("proc/self/limits").unwrap_or_default();
        let limit = |name: &str, column: usize| {
            let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
            rest.split_whitespace().nth(column)?.parse().ok()
        };
        let pids = |file: &str| {
            let texts = self.cgroup("pids", file, file);
            texts.iter().filter_map(|t| t.trim().parse::<u64>().ok()).min()
        };
        Limits {
            open_files: limit("Max open files", 0),
            open_files_hard: limit("Max open files", 1),
            locked_bytes: limit("Max locked memory", 0),
            processes: limit("Max processes", 0),
            cgroup_pids: pids("pids.max"),
            cgroup_pids_now: self
                .cgroup("pids", "pids.current", "pids.current")
                .first()
                .and_then(|t| t.trim().parse().ok()),
        }
    }

    /// The driver's version, as its kernel module says it: `550.54.15`.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        let text = self.read("proc/driver/nvidia/version")?;
        let line = text.lines().find(|l| l.contains("Kernel Module"))?;
        let version = |w: &&str| w.contains('.') && w.chars().all(|c| c.is_ascii_digit() || c == '.');
        line.split_whitespace().find(version).map(str::to_owned)
    }

    /// What runs the container that this process is in, if it is in one.
    #[must_use]
    pub fn container(&self) -> Option<&'static str> {
        let marks = [
            ("var/run/secrets/kubernetes.io", "Kubernetes"),
            (".dockerenv", "Docker"),
            ("run/.containerenv", "Podman"),
        ];
        marks.iter().find(|(file, _)| self.0.join(file).exists()).map(|(_, name)| *name)
    }

    /// The process that listens on `port`: its name and id, and whether it is a visord of this very file. `None` where
    /// the kernel does not tell, as it does not of other users' processes.
    #[must_use]
    pub fn listener(&self, port: u16) -> Option<Listener> {
        let mut sockets = Vec::new();
        for table in ["proc/net/tcp", "proc/net/tcp6"] {
            for line in self.read(table).unwrap_or_default().lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                // **Source:** proc_net_tcp.txt of the kernel: local address, state (0A listens), inode.
                if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = words[..]
                    && local.rsplit_once(':').and_then(|(_, p)| u16::from_str_radix(p, 16).ok()) == Some(port)
                {
                    sockets.push(format!("socket:[{inode}]"));
                }
            }
        }
        let processes = std::fs::read_dir(self.0.join("proc")).ok()?.flatten();
        let processes =
            processes.filter_map(|e| Some((e.file_name().to_str()?.parse::<u32>().ok()?, e.path())));
        for (pid, folder) in processes {
            let Ok(files) = std::fs::read_dir(folder.join("fd")) else { continue };
            let mut targets = files.flatten().filter_map(|f| std::fs::read_link(f.path()).ok());
            if targets.any(|t| t.to_str().is_some_and(|t| sockets.iter().any(|s| s == t))) {
                let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
                let visord = name == "visord" || same_program(&folder);
                return Some(Listener { pid, name, visord });
            }
        }
        None
    }
}

fn same_program(process: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let of = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    of(&process.join("exe")).is_some_and(|there| of(Path::new("/proc/self/exe")) == Some(there))
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Its process.
    pub pid: u32,
    /// The process's name.
    pub name: String,
    /// Whether it is a visord.
    pub visord: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn a_cpu_says_what_it_has() {
        let xeon = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 \
                    amx_int8\nprocessor\t: 1\n";
        let arm =
            "processor\t: 0\nFeatures\t: fp asimd asimdhp bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n";
        for (text, model, cores, features) in [
            (xeon, "Xeon", 2, "AVX2 AVX-512 VNNI BF16 AMX AMX BF16"),
            (arm, "implementer 0x41 part 0xd4f", 1, "NEON FP16 BF16"),
            ("", std::env::consts::ARCH, 1, ""),
        ] {
            let (_dir, root) = root(&[("proc/cpuinfo", text)]);
            let cpu = root.cpu(1);
            assert!(cpu.model.contains(model), "{cpu:?}");
            assert_eq!((cpu.cores, cpu.features.join(" ")), (cores, features.to_owned()));
        }
    }

    #[test]
    fn the_smallest_bound_of_both_kinds_of_cgroup_counts() {
        const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n");
        let v2: &[_] = &[
            MEMORY,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "2097152\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "1048576\n"),
            ("sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 524288\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/pids.max", "100\n"),
        ];
        let v1: &[_] = &[
            MEMORY,
            ("proc/self/cgroup", "4:memory:/host/path\n3:cpu,cpuacct:/host/path\n2:pids:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "524288\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/pids/pids.max", "100\n"),
        ];
        for (name, files) in [("v2", v2), ("v1", v1)] {
            let (_dir, root) = root(files);
            let memory = root.memory();
            assert_eq!(memory.cgroup_bytes, Some(2 << 20), "{name}");
            assert_eq!(memory.available_bytes, 1536 << 10, "{name}");
            assert_eq!(root.quota(), Some(1.5), "{name}");
            assert_eq!(root.limits().cgroup_pids, Some(100), "{name}");
        }
        let none = [
            MEMORY,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        let (_dir, root) = root(&none);
        assert_eq!(
            (root.memory().cgroup_bytes, root.memory().available_bytes, root.quota()),
            (None, 4 << 20, None)
        );
    }

    #[test]
    fn limits_driver_and_container_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             96365                96365                processes\n\
                      Max open files            1024                 524288               files\n\
                      Max locked memory         unlimited            unlimited            bytes\n";
        let driver = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 13\n";
        let (_dir, root) =
            root(&[("proc/self/limits", limits), ("proc/driver/nvidia/version", driver), (".dockerenv", "")]);
        let found = root.limits();
        assert_eq!((found.open_files, found.open_files_hard), (Some(1024), Some(524_288)));
        assert_eq!((found.locked_bytes, found.processes), (None, Some(96_365)));
        assert_eq!(root.driver_version().as_deref(), Some("550.54.15"));
        assert_eq!(root.container(), Some("Docker"));
    }
}
