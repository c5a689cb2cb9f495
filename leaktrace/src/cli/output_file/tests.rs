//! What a reader sees of a file that is written, and what is left of it.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

use super::*;

fn write(path: &Path, text: &str) -> io::Result<()> {
    replace(path, &mut |out| out.write_all(text.as_bytes()))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_reader_of_a_report_that_is_being_written_sees_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leak.json");
    replace(&path, &mut |out| {
        out.write_all(b"the first")?;
        out.flush()?;
        assert!(!path.exists());
        Ok(())
    })
    .unwrap();
    let mut opened = File::open(&path).unwrap();
    replace(&path, &mut |out| {
        out.write_all(b"half of")?;
        out.flush()?;
        assert_eq!(read(&path), "the first");
        out.write_all(b" the second")
    })
    .unwrap();
    assert_eq!(read(&path), "half of the second");
    // Whoever has opened it before reads on in what was there.
    let mut text = String::new();
    opened.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the first");
    assert_eq!(names(dir.path()), ["leak.json"]);
}

#[test]
fn a_report_that_cannot_be_written_leaves_the_one_before_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leak.json");
    write(&path, "the first").unwrap();
    let full = replace(&path, &mut |out| {
        out.write_all(b"half of")?;
        Err(io::ErrorKind::StorageFull.into())
    });
    assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(read(&path), "the first");
    assert_eq!(names(dir.path()), ["leak.json"]);
    // Nor is one left where there was none.
    let other = dir.path().join("other.json");
    replace(&other, &mut |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
    assert_eq!(names(dir.path()), ["leak.json"]);
}

#[test]
fn a_file_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leak.json");
    write(&path, "the first").unwrap();
    for mode in [0o600, 0o640, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        write(&path, "the second").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
}

#[test]
fn a_link_stays_one_and_its_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (link, path) = (dir.path().join("latest.json"), dir.path().join("leak.json"));
    symlink("leak.json", &link).unwrap();
    // There may be nothing behind it yet.
    for text in ["the first", "second"] {
        write(&link, text).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&path), text);
    }
    assert_eq!(names(dir.path()), ["latest.json", "leak.json"]);
}

#[test]
fn a_pipe_and_a_device_are_written_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leak.json");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let reads = {
        let path = path.clone();
        std::thread::spawn(move || read(&path))
    };
    write(&path, "a report").unwrap();
    assert_eq!(reads.join().unwrap(), "a report");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
    assert_eq!(names(dir.path()), ["leak.json"]);
    write(Path::new("/dev/null"), "a report").unwrap();
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn a_file_whose_directory_takes_no_other_is_written_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leak.json");
    write(&path, "the first report").unwrap();
    // What stands in the way is somebody else's, and stays.
    let in_the_way = dir.path().join(format!(".leak.json.{}", std::process::id()));
    fs::write(&in_the_way, "another's").unwrap();
    write(&path, "the second").unwrap();
    assert_eq!((read(&path), read(&in_the_way)), ("the second".into(), "another's".into()));
}
