//! The names of functions, from the symbol tables of the program and its libraries. The debug information of a release build
//! has line tables only, in which names are without paths.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, SymbolKind};

/// A function of the program or a library, with all that was inlined into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Function {
    /// Its path.
    pub(super) name: String,
    /// The name of its symbol. pprof shortens names that are equal to this one.
    pub(super) symbol: String,
}

impl Function {
    /// The function with this symbol, which may be mangled.
    pub(super) fn of_symbol(symbol: &str) -> Self {
        // Without the hash at the end.
        Self { name: format!("{:#}", rustc_demangle::demangle(symbol)), symbol: symbol.to_owned() }
    }

    /// A function without a symbol.
    pub(super) fn unknown(file: &str) -> Self {
        let name = if file.is_empty() { "[unknown]".to_owned() } else { format!("[{file}]") };
        Self { symbol: name.clone(), name }
    }
}

/// A part of a file that is mapped for execution.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    /// The position in the file of the first address.
    offset: u64,
    /// A path, or a name such as `[vdso]`.
    file: String,
}

/// Names the functions at `addresses` of this process. A function without a symbol has the name of its file. Only Linux says
/// where files are mapped.
pub(super) fn functions(addresses: &BTreeSet<u64>) -> HashMap<u64, Function> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = fs::read_link("/proc/self/exe").unwrap_or_default();
    let mut found = HashMap::new();
    for mapping in maps.lines().filter_map(mapping) {
        let addresses: Vec<u64> = addresses.range(mapping.addresses.clone()).copied().collect();
        if addresses.is_empty() {
            continue;
        }
        let path = Path::new(&mapping.file);
        // This name is also valid when an upgrade has replaced the file.
        let path = if path == program { Path::new("/proc/self/exe") } else { path };
        for address in &addresses {
            let file = Path::new(&mapping.file).file_name().unwrap_or_default().to_string_lossy();
            found.insert(*address, Function::unknown(file.trim_matches(['[', ']'])));
        }
        if let Ok(file) = File::open(path) {
            // Without the symbols of this file if it cannot be read.
            let _ = add_symbols(file, &mapping, &addresses, &mut found);
        }
    }
    found
}

/// A line of `/proc/self/maps`, if the mapping is executable.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    fields.next().filter(|permissions| permissions.contains('x'))?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let offset = number(fields.next()?)?;
    let file = fields.nth(2)?.trim_start().to_owned();
    Some(Mapping { addresses: number(start)?..number(end)?, offset, file })
}

fn add_symbols(
    file: File,
    mapping: &Mapping,
    addresses: &[u64],
    found: &mut HashMap<u64, Function>,
) -> object::Result<()> {
    // Reads the parts that are used, and not the debug information.
    let content = ReadCache::new(file);
    let object = object::File::parse(&content)?;
    let position = |address: u64| address - mapping.addresses.start + mapping.offset;
    let (Some(first), mut segments) = (addresses.first(), object.segments()) else { return Ok(()) };
    let segment = segments.find_map(|segment| {
        let (start, size) = segment.file_range();
        let offset = position(*first).checked_sub(start).filter(|offset| *offset < size)?;
        Some(segment.address() + offset)
    });
    // The addresses as the file has them, in the same order.
    let Some(start) = segment else { return Ok(()) };
    let in_file: Vec<u64> = addresses.iter().map(|address| start + (address - first)).collect();
    for symbol in object.dynamic_symbols().chain(object.symbols()) {
        if symbol.kind() != SymbolKind::Text {
            continue;
        }
        let from = in_file.partition_point(|address| *address < symbol.address());
        let covered = in_file[from..].iter().take_while(|address| **address - symbol.address() < symbol.size()).count();
        if let (1.., Ok(name)) = (covered, symbol.name()) {
            for address in &addresses[from..from + covered] {
                found.insert(*address, Function::of_symbol(name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn known() -> u64 {
        known as fn() -> u64 as usize as u64
    }

    #[test]
    fn the_functions_of_the_program_and_of_its_libraries_have_names() {
        let libc = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = libc.lines().filter_map(mapping).find(|mapping| mapping.file.contains("libc.so")).unwrap();
        let addresses = BTreeSet::from([known(), libc.addresses.start, 1]);
        let found = functions(&addresses);
        let name = |address: u64| found.get(&address).map(|function| function.name.as_str());
        assert!(name(known()).unwrap().ends_with("profile::symbols::tests::known"), "{found:?}");
        assert!(name(libc.addresses.start).is_some(), "{found:?}");
        assert_eq!(name(1), None, "nothing is mapped there");
    }

    #[test]
    fn only_executable_mappings_have_functions() {
        let line = "7f0000001000-7f0000003000 r-xp 00001000 fe:00 12   /opt/my program";
        let addresses = 0x7f00_0000_1000..0x7f00_0000_3000;
        assert_eq!(mapping(line), Some(Mapping { addresses, offset: 0x1000, file: "/opt/my program".to_owned() }));
        assert_eq!(mapping(&line.replace("r-xp", "r--p")), None);
        assert_eq!(mapping(""), None);
    }
}
