//! One function in one line: `PLACE[:KEY[=N],...]`.

use leaktrace_ebpf::cookie::{Kind, NO_ARGUMENT, Signature};

use crate::cli::values;
use crate::model::printable;
use crate::target::{Exceptions, OwnFunction, Place};

/// Arguments are looked for in registers, of which there are so many on every machine.
const LAST_ARGUMENT: u8 = 5;
/// A longer one is a mistake, in bytes.
const LONGEST: usize = 4096;

const ALLOC_KEYS: &str = "size=N, count=N, bytes=SIZE, ret, out=N, ptr=N, align=N, throws, nothrow";

/// A function that allocates.
///
/// # Errors
///
/// What is wrong, for the user.
pub(super) fn allocates(text: &str) -> Result<OwnFunction, String> {
    allocates_in(text, None)
}

/// A function that frees.
///
/// # Errors
///
/// What is wrong, for the user.
pub(super) fn frees(text: &str) -> Result<OwnFunction, String> {
    frees_in(text, None)
}

/// The same, in `object` where the text names none.
pub(super) fn allocates_in(text: &str, object: Option<&str>) -> Result<OwnFunction, String> {
    let (place, keys) = split(text, object)?;
    let keys = Keys::read(keys, |key| {
        match key {
            "size" | "count" | "out" | "ptr" | "align" => Some(Takes::Argument),
            "bytes" => Some(Takes::Size),
            "ret" | "throws" | "nothrow" => Some(Takes::Nothing),
            _ => None,
        }
        .ok_or_else(|| format!("a function that allocates has the keys {ALLOC_KEYS}"))
    })?;
    let (size, pointer) = (keys.argument("size"), keys.argument("ptr"));
    if keys.has("out") && keys.has("ret") {
        return Err("`ret` and `out=N` exclude each other: the block is returned, or written \
                    through an argument"
            .to_owned());
    }
    if size.is_some() && keys.has("bytes") {
        return Err(
            "`size=N` and `bytes=SIZE` exclude each other: keep `size=N` if an argument has \
                    the size"
                .to_owned(),
        );
    }
    if keys.has("count") && size.is_none() {
        return Err("`count=N` needs `size=N`, the argument that it is multiplied with".to_owned());
    }
    let exceptions = match (keys.has("throws"), keys.has("nothrow")) {
        (true, true) => {
            return Err(
                "`throws` and `nothrow` exclude each other: an exception may pass through \
                        the function, or none can"
                    .to_owned(),
            );
        }
        (true, false) => Exceptions::Pass,
        (false, true) => Exceptions::Never,
        (false, false) => Exceptions::NotSaid,
    };
    let kind = if pointer.is_some() { Kind::Reallocate } else { Kind::Allocate };
    let or_none = |argument: Option<u8>| argument.unwrap_or(NO_ARGUMENT);
    let signature = Signature::of(kind)
        .size(or_none(size))
        .count(or_none(keys.argument("count")))
        .pointer(or_none(pointer))
        .out(or_none(keys.argument("out")));
    Ok(OwnFunction { place, signature, fixed_bytes: keys.bytes, exceptions })
}

/// The same, in `object` where the text names none.
pub(super) fn frees_in(text: &str, object: Option<&str>) -> Result<OwnFunction, String> {
    let (place, keys) = split(text, object)?;
    let keys = Keys::read(keys, |key| {
        (key == "ptr")
            .then_some(Takes::Argument)
            .ok_or_else(|| "a function that frees has the key ptr=N only".to_owned())
    })?;
    let signature = Signature::of(Kind::Free).pointer(keys.argument("ptr").unwrap_or(0));
    Ok(OwnFunction { place, signature, fixed_bytes: None, exceptions: Exceptions::NotSaid })
}

/// The place, and the keys behind the last colon that is no part of a `::`.
fn split<'a>(text: &'a str, object: Option<&str>) -> Result<(Place, Option<&'a str>), String> {
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    let (place, keys) = match text.rsplit_once(':') {
        Some((place, keys)) if !place.ends_with(':') => (place, Some(keys)),
        _ => (text, None),
    };
    if keys == Some("") {
        return Err("nothing follows the colon: write NAME, or NAME:size=0".to_owned());
    }
    let place = self::place(place, object)?;
    Ok((place, keys))
}

fn place(text: &str, object: Option<&str>) -> Result<Place, String> {
    let is_wrong = |name: &str| name.is_empty() || name.trim() != name || name.contains('\0');
    if let Some((file, address)) = text.rsplit_once("+0x") {
        let file = if file.is_empty() { object.unwrap_or_default() } else { file };
        if is_wrong(file) {
            return Err(
                "an address needs its object in front: `libpool.so+0x1234`, `app+0x401136`"
                    .to_owned(),
            );
        }
        // No sign, as the parser would take it.
        let digits = address.bytes().all(|byte| byte.is_ascii_hexdigit());
        let address =
            u64::from_str_radix(address, 16).ok().filter(|_| digits).ok_or_else(|| {
                let address = printable(address);
                format!("`0x{address}` is no address: write it as `nm` prints it, like 0x401136")
            })?;
        return Ok(Place::Address { object: file.to_owned(), address });
    }
    let (name, file) = match text.split_once('@') {
        Some((name, file)) => (name, Some(file)),
        None => (text, object),
    };
    if is_wrong(name) {
        return Err("the function has no name: write `pool_get:size=0`".to_owned());
    }
    if file.is_some_and(is_wrong) {
        return Err("no object follows the `@`: write `pool_get@libpool.so`".to_owned());
    }
    // What C++ calls `operator=` is no allocator.
    if name.contains('=') {
        return Err(format!(
            "`{}` is no function's name: one colon stands between the name and its keys, and commas \
             between these: `pool_get:size=0,ret`",
            printable(name)
        ));
    }
    Ok(Place::Symbol { name: name.to_owned(), object: file.map(str::to_owned) })
}

/// What a key is given.
enum Takes {
    Argument,
    Size,
    Nothing,
}

/// The keys of a function.
struct Keys<'a> {
    seen: Vec<(&'a str, Option<u8>)>,
    bytes: Option<u64>,
}

impl<'a> Keys<'a> {
    fn read(
        text: Option<&'a str>,
        takes: impl Fn(&str) -> Result<Takes, String>,
    ) -> Result<Self, String> {
        let mut this = Self { seen: Vec::new(), bytes: None };
        for item in text.into_iter().flat_map(|keys| keys.split(',')) {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (item, None),
            };
            let wrong = |why: &str| format!("`{}`: {why}", printable(item));
            let takes = takes(key).map_err(|why| wrong(&why))?;
            if this.has(key) {
                return Err(wrong("the key is given twice"));
            }
            let argument = match takes {
                Takes::Nothing if value.is_some() => return Err(wrong("the key takes no value")),
                Takes::Nothing => None,
                Takes::Size => {
                    let bytes = values::size(value.unwrap_or_default());
                    let bytes = bytes.ok().filter(|bytes| *bytes != 0);
                    let why = "it takes a size, like bytes=64 or bytes=4KiB";
                    this.bytes = Some(bytes.ok_or_else(|| wrong(why))?);
                    None
                }
                Takes::Argument => {
                    let why = "it takes the number of an argument, from 0 for the first to 5";
                    let number = value.and_then(argument).ok_or_else(|| wrong(why))?;
                    if let Some((other, _)) = this.seen.iter().find(|(_, n)| *n == Some(number)) {
                        return Err(wrong(&format!("argument {number} is `{other}` already")));
                    }
                    Some(number)
                }
            };
            this.seen.push((key, argument));
        }
        Ok(this)
    }

    fn has(&self, key: &str) -> bool {
        self.seen.iter().any(|(seen, _)| *seen == key)
    }

    fn argument(&self, key: &str) -> Option<u8> {
        self.seen.iter().find(|(seen, _)| *seen == key)?.1
    }
}

fn argument(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Some(digit - b'0').filter(|number| *number <= LAST_ARGUMENT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str, object: Option<&str>) -> Place {
        Place::Symbol { name: name.to_owned(), object: object.map(str::to_owned) }
    }

    #[test]
    fn places() {
        let at = |object: &str, address| Place::Address { object: object.to_owned(), address };
        for (text, place) in [
            ("pool_get", symbol("pool_get", None)),
            ("pool_get@libpool.so", symbol("pool_get", Some("libpool.so"))),
            ("pool_get@/opt/node@20/app", symbol("pool_get", Some("/opt/node@20/app"))),
            ("Arena::alloc", symbol("Arena::alloc", None)),
            ("Pool<a::B, 4>::get@app", symbol("Pool<a::B, 4>::get", Some("app"))),
            ("_ZN5Arena5allocEm", symbol("_ZN5Arena5allocEm", None)),
            ("app+0x401136", at("app", 0x401136)),
            ("/usr/lib/libstdc++.so.6+0xABc", at("/usr/lib/libstdc++.so.6", 0xabc)),
            ("/opt/node@20/app+0x10", at("/opt/node@20/app", 0x10)),
        ] {
            for (text, size) in [(text.to_owned(), NO_ARGUMENT), (format!("{text}:size=3"), 3)] {
                let function = allocates(&text).unwrap();
                assert_eq!(
                    (function.place, function.signature.size),
                    (place.clone(), size),
                    "{text}"
                );
            }
            assert_eq!(frees(&format!("{text}:ptr=2")).unwrap().place, place);
        }
        let in_file = |text| allocates_in(text, Some("libx.so")).unwrap().place;
        assert_eq!(in_file("f"), symbol("f", Some("libx.so")));
        assert_eq!(in_file("f@app"), symbol("f", Some("app")));
        assert_eq!(in_file("+0x10:size=0"), at("libx.so", 0x10));
    }

    #[test]
    fn keys() {
        let of = |text| allocates(text).unwrap();
        let base = Signature::of(Kind::Allocate);
        assert_eq!(of("f").signature, base);
        assert_eq!(of("f:size=0,ret").signature, base.size(0));
        assert_eq!(of("f:size=1,count=0,align=2").signature, base.size(1).count(0));
        assert_eq!(of("cudaMalloc:out=0,size=1").signature, base.size(1).out(0));
        let realloc = Signature::of(Kind::Reallocate).pointer(1).size(2);
        assert_eq!(of("f:ptr=1,size=2").signature, realloc);
        let fixed = of("f:bytes=4KiB,throws");
        assert_eq!((fixed.fixed_bytes, fixed.signature), (Some(4096), base));
        assert_eq!(fixed.exceptions, Exceptions::Pass);
        assert_eq!(of("f:nothrow").exceptions, Exceptions::Never);
        assert_eq!(of("f").exceptions, Exceptions::NotSaid);
        let frees = |text| frees(text).unwrap().signature;
        assert_eq!(frees("f"), Signature::of(Kind::Free).pointer(0));
        assert_eq!(frees("f:ptr=5"), Signature::of(Kind::Free).pointer(5));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("", "the function has no name"),
            (":size=0", "the function has no name"),
            ("@app", "the function has no name"),
            (" f", "the function has no name"),
            ("f@", "no object follows the `@`"),
            ("f@:size=0", "no object follows the `@`"),
            ("f:", "nothing follows the colon"),
            ("f:size", "`size`: it takes the number of an argument"),
            ("f:size=", "`size=`: it takes the number of an argument"),
            ("f:size=6", "`size=6`: it takes the number of an argument, from 0 for the first to 5"),
            ("f:size=-1", "`size=-1`: it takes the number"),
            ("f:size=+1", "`size=+1`: it takes the number"),
            ("f:size=00", "`size=00`: it takes the number"),
            ("f:size=0,", "``: a function that allocates has the keys size=N"),
            ("f:sise=0", "`sise=0`: a function that allocates has the keys size=N"),
            ("f:size=0,size=1", "`size=1`: the key is given twice"),
            ("f:size=0,ptr=0", "`ptr=0`: argument 0 is `size` already"),
            ("f:ret=1", "`ret=1`: the key takes no value"),
            ("f:ret,out=0", "`ret` and `out=N` exclude each other"),
            ("f:size=0,bytes=4", "`size=N` and `bytes=SIZE` exclude each other"),
            ("f:throws,nothrow", "`throws` and `nothrow` exclude each other"),
            ("f:nothrow=1", "`nothrow=1`: the key takes no value"),
            ("f:bytes=0", "`bytes=0`: it takes a size, like"),
            ("f:bytes=x", "`bytes=x`: it takes a size, like"),
            ("f:bytes", "`bytes`: it takes a size, like"),
            ("f:count=1", "`count=N` needs `size=N`"),
            ("f::size=0", "one colon stands between the name and its keys"),
            ("f:size=0:ret", "one colon stands between the name and its keys"),
            ("+0x10", "an address needs its object in front"),
            ("app+0x", "`0x` is no address"),
            ("app+0x+1", "`0x+1` is no address"),
            ("app+0xzz:size=0", "`0xzz` is no address"),
            ("app+0x11112222333344445", "`0x11112222333344445` is no address"),
            ("f:\u{1b}[2J=0", "a function that allocates has the keys"),
        ] {
            let error = allocates(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
        assert!(
            frees("f:size=0").unwrap_err().contains("a function that frees has the key ptr=N only")
        );
        assert!(allocates(&"f".repeat(5000)).unwrap_err().contains("longer than 4096 bytes"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_function_or_an_error(text in "[a-z:@+0x=,<> ]{0,24}|.{0,40}") {
            for parsed in [allocates(&text), frees(&text), allocates_in(&text, Some("x.so"))] {
                match parsed {
                    Ok(function) => {
                        let Signature { size, count, pointer, out, .. } = function.signature;
                        assert!([size, count, pointer, out].iter().all(|n| *n <= 5 || *n == NO_ARGUMENT));
                        assert!(!function.place.function().is_empty());
                        assert!(function.fixed_bytes != Some(0));
                    }
                    Err(error) => assert!(!error.is_empty() && error.chars().all(|c| !c.is_control())),
                }
            }
        }
    }
}
