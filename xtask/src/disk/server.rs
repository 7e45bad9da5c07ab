//! The NBD protocol, server's side, as far as QEMU speaks it: fixed newstyle negotiation and simple replies, all numbers big-endian.
//!
//! ```text
//! server: "NBDMAGIC" "IHAVEOPT" flags(2)         client: flags(4)
//! client: "IHAVEOPT" option(4) length(4) data    server: magic(8) option(4) kind(4) length(4) data, for each option
//! client: magic(4) flags(2) type(2) cookie(8) offset(8) length(4), data of a write
//! server: magic(4) error(4) cookie(8), data of a read
//! ```
//!
//! One thread reads commands into the disk's queue, another completes them and answers: many are under way at a time, and they end in any order.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use super::{Command, CommandKind, Disk};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x3_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, and no padding behind the reply to `EXPORT_NAME`.
const HANDSHAKE_FLAGS: u16 = 0b11;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// It has flags, and knows flush, FUA, trim and write-zeroes.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;

const TYPE_READ: u16 = 0;
const TYPE_WRITE: u16 = 1;
const TYPE_DISCONNECT: u16 = 2;
const TYPE_FLUSH: u16 = 3;
const TYPE_TRIM: u16 = 4;
const TYPE_WRITE_ZEROES: u16 = 6;
const FLAG_FUA: u16 = 1;

const ERROR_IO: u32 = 5;
const ERROR_INVALID: u32 = 22;
/// Longest option or transfer.
const OPTION_BYTES_MAX: u32 = 4096;
const TRANSFER_BYTES_MAX: u32 = 32 << 20;

/// Serves one client until it goes, or until the power fails.
pub(crate) fn serve(stream: UnixStream, disk: &Disk) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut commands = BufReader::new(stream);
    if !negotiate(&mut commands, &mut answers, disk)? {
        return Ok(());
    }
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&mut answers, disk));
        let received = receive(&mut commands, disk);
        disk.close();
        let answered = answering.join().unwrap_or_else(|_| Err(io::Error::other("the answering thread has panicked")));
        received.and(answered)
    })
}

/// Comes to terms with the client; whether it wants to go on.
fn negotiate(from: &mut impl Read, to: &mut impl Write, disk: &Disk) -> io::Result<bool> {
    to.write_all(GREETING)?;
    to.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    let _client_flags = u32::from_be_bytes(bytes(from)?);
    loop {
        if u64::from_be_bytes(bytes(from)?) != OPTION_MAGIC {
            return Err(io::Error::other("the client does not negotiate"));
        }
        let option = u32::from_be_bytes(bytes(from)?);
        let len = u32::from_be_bytes(bytes(from)?);
        if len > OPTION_BYTES_MAX {
            return Err(io::Error::other(format!("an option of {len} bytes")));
        }
        let mut data = vec![0; len as usize];
        from.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| -> io::Result<()> {
            let mut message = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            for number in [option, kind, data.len() as u32] {
                message.extend_from_slice(&number.to_be_bytes());
            }
            message.extend_from_slice(data);
            to.write_all(&message)
        };
        match option {
            OPTION_EXPORT_NAME => {
                to.write_all(&disk.len().to_be_bytes())?;
                to.write_all(&EXPORT_FLAGS.to_be_bytes())?;
                return Ok(true);
            }
            OPTION_ABORT => {
                reply(REPLY_ACK, &[])?;
                return Ok(false);
            }
            OPTION_INFO | OPTION_GO => {
                let mut export = INFO_EXPORT.to_be_bytes().to_vec();
                export.extend_from_slice(&disk.len().to_be_bytes());
                export.extend_from_slice(&EXPORT_FLAGS.to_be_bytes());
                reply(REPLY_INFO, &export)?;
                let block = disk.block_bytes() as u32;
                let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                for size in [block, block.max(4096), TRANSFER_BYTES_MAX] {
                    sizes.extend_from_slice(&size.to_be_bytes());
                }
                reply(REPLY_INFO, &sizes)?;
                reply(REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            _ => reply(REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn receive(from: &mut impl Read, disk: &Disk) -> io::Result<()> {
    loop {
        let mut magic = [0; 4];
        match from.read_exact(&mut magic) {
            // QEMU is gone, in an orderly way or not.
            Err(error) if gone(&error) => return Ok(()),
            result => result?,
        }
        if u32::from_be_bytes(magic) != REQUEST_MAGIC {
            return Err(io::Error::other("the client has lost its place in the stream"));
        }
        let flags = u16::from_be_bytes(bytes(from)?);
        let kind = u16::from_be_bytes(bytes(from)?);
        let cookie = u64::from_be_bytes(bytes(from)?);
        let offset = u64::from_be_bytes(bytes(from)?);
        let len = u32::from_be_bytes(bytes(from)?);
        let kind = match kind {
            TYPE_READ => CommandKind::Read,
            TYPE_WRITE => CommandKind::Write,
            TYPE_FLUSH => CommandKind::Flush,
            TYPE_TRIM | TYPE_WRITE_ZEROES => CommandKind::Zero,
            TYPE_DISCONNECT => return Ok(()),
            other => return Err(io::Error::other(format!("a command of the unknown type {other}"))),
        };
        let mut data = Vec::new();
        if kind == CommandKind::Write {
            if len > TRANSFER_BYTES_MAX {
                return Err(io::Error::other(format!("a write of {len} bytes")));
            }
            data.resize(len as usize, 0);
            from.read_exact(&mut data)?;
        }
        let durable = flags & FLAG_FUA != 0;
        disk.receive(Command { kind, cookie, offset, len: u64::from(len), durable, data, told: 0 });
    }
}

fn answer(to: &mut impl Write, disk: &Disk) -> io::Result<()> {
    while let Some((completion, number)) = disk.complete() {
        let (error, data) = match completion.result {
            Ok(data) => (0, data),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => (ERROR_INVALID, Vec::new()),
            Err(error) => {
                eprintln!("the disk's image: {error}");
                (ERROR_IO, Vec::new())
            }
        };
        let mut message = Vec::with_capacity(16 + data.len());
        message.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
        message.extend_from_slice(&error.to_be_bytes());
        message.extend_from_slice(&completion.cookie.to_be_bytes());
        message.extend_from_slice(&data);
        match disk.tell(number, || to.write_all(&message)) {
            Err(error) if gone(&error) => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

fn gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A client that negotiates as QEMU does, writes a block of sevens to the second block with FUA, reads it and goes.
    pub(crate) fn talk(mut stream: UnixStream, len: u64, block: u32) {
        assert_eq!(bytes::<18>(&mut stream).unwrap()[..16], *GREETING);
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        option(&mut stream, 8, &[]);
        assert_eq!(option_reply(&mut stream).0, REPLY_UNSUPPORTED);
        option(&mut stream, OPTION_GO, &[0; 6]);
        let (kind, export) = option_reply(&mut stream);
        assert_eq!((kind, &export[2..10]), (REPLY_INFO, &len.to_be_bytes()[..]));
        let (kind, sizes) = option_reply(&mut stream);
        assert_eq!((kind, &sizes[2..6]), (REPLY_INFO, &block.to_be_bytes()[..]));
        assert_eq!(option_reply(&mut stream), (REPLY_ACK, Vec::new()));
        request(&mut stream, FLAG_FUA, TYPE_WRITE, u64::from(block), block);
        stream.write_all(&vec![7; block as usize]).unwrap();
        assert_eq!(reply(&mut stream), 0);
        request(&mut stream, 0, TYPE_READ, u64::from(block), block);
        assert_eq!(reply(&mut stream), 0);
        let mut data = vec![0; block as usize];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(data, vec![7; block as usize]);
        request(&mut stream, 0, TYPE_READ, len, block);
        assert_eq!(reply(&mut stream), ERROR_INVALID);
        request(&mut stream, 0, TYPE_DISCONNECT, 0, 0);
    }

    fn option(stream: &mut UnixStream, option: u32, data: &[u8]) {
        stream.write_all(&OPTION_MAGIC.to_be_bytes()).unwrap();
        stream.write_all(&option.to_be_bytes()).unwrap();
        stream.write_all(&(data.len() as u32).to_be_bytes()).unwrap();
        stream.write_all(data).unwrap();
    }

    fn option_reply(stream: &mut UnixStream) -> (u32, Vec<u8>) {
        assert_eq!(u64::from_be_bytes(bytes(stream).unwrap()), OPTION_REPLY_MAGIC);
        let _option: [u8; 4] = bytes(stream).unwrap();
        let kind = u32::from_be_bytes(bytes(stream).unwrap());
        let mut data = vec![0; u32::from_be_bytes(bytes(stream).unwrap()) as usize];
        stream.read_exact(&mut data).unwrap();
        (kind, data)
    }

    fn request(stream: &mut UnixStream, flags: u16, kind: u16, offset: u64, len: u32) {
        stream.write_all(&REQUEST_MAGIC.to_be_bytes()).unwrap();
        for number in [flags, kind] {
            stream.write_all(&number.to_be_bytes()).unwrap();
        }
        stream.write_all(&1_u64.to_be_bytes()).unwrap();
        stream.write_all(&offset.to_be_bytes()).unwrap();
        stream.write_all(&len.to_be_bytes()).unwrap();
    }

    fn reply(stream: &mut UnixStream) -> u32 {
        assert_eq!(u32::from_be_bytes(bytes(stream).unwrap()), REPLY_MAGIC);
        let error = u32::from_be_bytes(bytes(stream).unwrap());
        assert_eq!(u64::from_be_bytes(bytes(stream).unwrap()), 1);
        error
    }
}
