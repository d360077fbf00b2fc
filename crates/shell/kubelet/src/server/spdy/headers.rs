//! Header blocks of SPDY/3.1: name and value pairs under one zlib stream per direction, with the protocol's dictionary.
//!
//! Invariant: a block never inflates to more than `BLOCK_MAX` bytes. What we send is stored, not deflated: our blocks are
//! a few bytes, and any inflater takes them.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT};

use super::frame::FrameError;

/// Most bytes of a header block once inflated.
pub(crate) const BLOCK_MAX: usize = 64 * 1024;
/// Size of deflate's window.
const WINDOW: usize = 32 * 1024;
/// Adler-32 of the dictionary: how a zlib stream names it.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];
/// Words that the dictionary holds, each after its length.
const WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,accept-ranges,age,\
    allow,authorization,cache-control,connection,content-base,content-encoding,content-language,content-length,\
    content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,if-modified-since,\
    if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,proxy-authenticate,\
    proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,user-agent,vary,via,warning,\
    www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,keep-alive,origin";
/// What follows the words.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Names (in lower case) and values, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The first value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        value.split('\0').next()
    }

    fn decode(mut block: &[u8]) -> Result<Self, FrameError> {
        let count = number(&mut block)?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            pairs.push((name, text(&mut block)?));
        }
        if block.is_empty() {
            Ok(Self(pairs))
        } else {
            Err(FrameError::Headers)
        }
    }

    fn encode(&self) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).expect("headers that we make are short").to_be_bytes();
        let mut block = length(self.0.len()).to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

fn number(block: &mut &[u8]) -> Result<usize, FrameError> {
    let (bytes, rest) = block.split_first_chunk::<4>().ok_or(FrameError::Headers)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| FrameError::Headers)
}

fn text(block: &mut &[u8]) -> Result<String, FrameError> {
    let length = number(block)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(FrameError::Headers)?;
    *block = rest;
    String::from_utf8(bytes.to_vec()).map_err(|_| FrameError::Headers)
}

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.split(',') {
        let length = u32::try_from(word.len()).expect("a word");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Inflates the blocks of one direction, in order: each may refer to those before.
pub(crate) struct Inflater {
    state: DecompressorOxide,
    window: Box<[u8]>,
    position: usize,
    begun: bool,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        let dictionary = dictionary();
        let mut window = vec![0; WINDOW].into_boxed_slice();
        window[..dictionary.len()].copy_from_slice(&dictionary);
        Self {
            state: DecompressorOxide::new(),
            window,
            position: dictionary.len(),
            begun: false,
        }
    }

    /// The headers of a whole block.
    pub(crate) fn headers(&mut self, mut input: &[u8]) -> Result<Headers, FrameError> {
        if !self.begun {
            input = after_zlib_header(input)?;
            self.begun = true;
        }
        let mut block = Vec::new();
        loop {
            let (status, read, written) = decompress(
                &mut self.state,
                input,
                &mut self.window,
                self.position,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            input = &input[read..];
            block.extend_from_slice(&self.window[self.position..self.position + written]);
            self.position = (self.position + written) % WINDOW;
            if block.len() > BLOCK_MAX {
                return Err(FrameError::TooLarge);
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput => return Headers::decode(&block),
                _ => return Err(FrameError::Compression),
            }
        }
    }
}

/// Checks the start of a zlib stream: deflate, with our dictionary.
fn after_zlib_header(input: &[u8]) -> Result<&[u8], FrameError> {
    let (&[method, flags], rest) = input.split_first_chunk::<2>().ok_or(FrameError::Compression)?;
    let whole = u16::from_be_bytes([method, flags]) % 31 == 0;
    let named = flags & 0x20 != 0;
    match rest.split_first_chunk::<4>() {
        Some((&DICTIONARY_ID, rest)) if whole && named && method & 0x0f == 8 => Ok(rest),
        _ => Err(FrameError::Compression),
    }
}

/// Writes the blocks of one direction.
#[derive(Default)]
pub(crate) struct Deflater {
    begun: bool,
}

impl Deflater {
    /// A block of zlib's stream: the header, once; stored blocks; and an empty one, at which inflaters give out what they
    /// have.
    pub(crate) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let mut output = Vec::new();
        if !self.begun {
            output.extend_from_slice(&[0x78, 0xbb]);
            output.extend_from_slice(&DICTIONARY_ID);
            self.begun = true;
        }
        let block = headers.encode();
        for part in block.chunks(usize::from(u16::MAX)).chain([&[][..]]) {
            let length = u16::try_from(part.len()).expect("a chunk's length");
            output.push(0);
            output.extend_from_slice(&length.to_le_bytes());
            output.extend_from_slice(&(!length).to_le_bytes());
            output.extend_from_slice(part);
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        let (mut low, mut high) = (1_u32, 0_u32);
        for byte in dictionary() {
            low = (low + u32::from(byte)) % 65521;
            high = (high + low) % 65521;
        }
        assert_eq!(((high << 16) | low).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn blocks_that_zlib_made_are_read_in_order() {
        // Made by zlib 1.3 at level 9 with the dictionary, each ended by a sync flush; the second refers to the first.
        let first = bytes("78f9e3c6a7c202253a48f95b044aab4c16064092b308125b99a054cc68004e872545a989b9d0a2863515141100000000ffff");
        let second = bytes("224b2ba8944a04000000ffff");
        let expected = |kind| headers(&[("port", "80"), ("requestid", "0"), ("streamtype", kind)]);
        let mut inflater = Inflater::new();
        assert_eq!(inflater.headers(&first).unwrap(), expected("error"));
        assert_eq!(inflater.headers(&second).unwrap(), expected("data"));
        assert_eq!(expected("data").get("streamtype"), Some("data"));
    }

    #[test]
    fn what_is_written_is_read_also_past_the_window() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::new());
        for round in 0..20 {
            let value = "v".repeat(3000 + round);
            let sent = headers(&[("name", value.as_str()), ("other", "")]);
            assert_eq!(inflater.headers(&deflater.block(&sent)).unwrap(), sent);
        }
        assert_eq!(
            inflater.headers(&deflater.block(&Headers::default())).unwrap(),
            Headers::default()
        );
    }

    #[test]
    fn bad_blocks_are_refused() {
        let good = Deflater::default().block(&headers(&[("a", "b")]));
        let mut other_dictionary = good.clone();
        other_dictionary[3] ^= 1;
        let mut broken = good.clone();
        broken[9] ^= 1;
        let huge = Deflater::default().block(&headers(&[("a", &"b".repeat(BLOCK_MAX))]));
        for (block, error) in [
            (&[][..], FrameError::Compression),
            (&good[..5], FrameError::Compression),
            (&other_dictionary, FrameError::Compression),
            (&broken, FrameError::Compression),
            (&good[..good.len() - 7], FrameError::Headers),
            (&huge, FrameError::TooLarge),
        ] {
            assert_eq!(Inflater::new().headers(block).unwrap_err(), error);
        }
    }
}
