//! An assembler for hostile guests: 32-bit instructions without paging, in the order in which they
//! run.

/// Where the code lies.
pub(crate) const ENTRY: u32 = 0x10_0000;
/// Loop counters: free memory below the code.
const COUNTERS: u32 = 0x5_0000;
/// Top of the stack.
const STACK: u32 = 0x8_0000;
const SERIAL: u16 = 0x3f8;

/// Width of an access, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Byte,
    Word,
    Long,
}

impl Width {
    pub(crate) const ALL: [Self; 3] = [Self::Byte, Self::Word, Self::Long];
}

/// A program under construction.
#[derive(Debug, Default)]
pub(crate) struct Code {
    bytes: Vec<u8>,
    counters: u32,
}

impl Code {
    pub(crate) fn new() -> Self {
        let mut code = Self::default();
        code.emit(&[0xbc]); // mov esp, STACK
        code.long(STACK);
        code
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn long(&mut self, value: u32) {
        self.emit(&value.to_le_bytes());
    }

    fn here(&self) -> u32 {
        ENTRY + u32::try_from(self.bytes.len()).unwrap()
    }

    /// Instructions of one's own.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.emit(bytes);
        self
    }

    /// Stores a value at a guest physical address.
    pub(crate) fn store(&mut self, width: Width, gpa: u32, value: u32) -> &mut Self {
        let value = value.to_le_bytes();
        let (opcode, value): (&[u8], &[u8]) = match width {
            Width::Byte => (&[0xc6, 0x05], &value[..1]),
            Width::Word => (&[0x66, 0xc7, 0x05], &value[..2]),
            Width::Long => (&[0xc7, 0x05], &value),
        };
        self.emit(opcode);
        self.long(gpa);
        self.emit(value);
        self
    }

    /// `store` of four bytes.
    pub(crate) fn set(&mut self, gpa: u32, value: u32) -> &mut Self {
        self.store(Width::Long, gpa, value)
    }

    /// Loads EAX, AX or AL from a guest physical address.
    pub(crate) fn load(&mut self, width: Width, gpa: u32) -> &mut Self {
        self.emit(match width {
            Width::Byte => &[0xa0],
            Width::Word => &[0x66, 0xa1],
            Width::Long => &[0xa1],
        });
        self.long(gpa);
        self
    }

    /// Stores EAX, AX or AL where EDI points to.
    pub(crate) fn store_at_edi(&mut self, width: Width) -> &mut Self {
        self.raw(match width {
            Width::Byte => &[0x88, 0x07],
            Width::Word => &[0x66, 0x89, 0x07],
            Width::Long => &[0x89, 0x07],
        })
    }

    /// Loads EAX, AX or AL from where EDI points to.
    pub(crate) fn load_at_edi(&mut self, width: Width) -> &mut Self {
        self.raw(match width {
            Width::Byte => &[0x8a, 0x07],
            Width::Word => &[0x66, 0x8b, 0x07],
            Width::Long => &[0x8b, 0x07],
        })
    }

    pub(crate) fn eax(&mut self, value: u32) -> &mut Self {
        self.emit(&[0xb8]);
        self.long(value);
        self
    }

    pub(crate) fn ecx(&mut self, value: u32) -> &mut Self {
        self.emit(&[0xb9]);
        self.long(value);
        self
    }

    /// Reads the port in DI.
    pub(crate) fn in_at_di(&mut self, width: Width) -> &mut Self {
        self.emit(&[0x89, 0xfa]); // mov edx, edi
        self.raw(match width {
            Width::Byte => &[0xec],
            Width::Word => &[0x66, 0xed],
            Width::Long => &[0xed],
        })
    }

    /// Writes EAX, AX or AL to the port in DI.
    pub(crate) fn out_at_di(&mut self, width: Width) -> &mut Self {
        self.emit(&[0x89, 0xfa]);
        self.raw(match width {
            Width::Byte => &[0xee],
            Width::Word => &[0x66, 0xef],
            Width::Long => &[0xef],
        })
    }

    /// Writes a byte to a port.
    pub(crate) fn out(&mut self, port: u16, byte: u8) -> &mut Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x66, 0xba, low, high, 0xb0, byte, 0xee])
    }

    /// Prints a line on the serial port.
    pub(crate) fn print(&mut self, text: &str) -> &mut Self {
        for byte in text.bytes() {
            self.out(SERIAL, byte);
        }
        self
    }

    /// Runs the body so often.
    pub(crate) fn repeat(&mut self, times: u32, body: impl FnOnce(&mut Self)) -> &mut Self {
        let counter = COUNTERS + 4 * self.counters;
        self.counters += 1;
        self.set(counter, times);
        let top = self.here();
        body(self);
        self.emit(&[0xff, 0x0d]); // dec dword [counter]
        self.long(counter);
        self.jump_back(&[0x0f, 0x85], top) // jnz
    }

    /// Runs the body with EDI from `first` on in steps, below `end`. Bodies keep EDI.
    pub(crate) fn sweep(
        &mut self,
        first: u32,
        end: u32,
        step: u32,
        body: impl FnOnce(&mut Self),
    ) -> &mut Self {
        assert!(first < end && end.checked_add(step).is_some());
        self.emit(&[0xbf]); // mov edi, first
        self.long(first);
        let top = self.here();
        body(self);
        self.emit(&[0x81, 0xc7]); // add edi, step
        self.long(step);
        self.emit(&[0x81, 0xff]); // cmp edi, end
        self.long(end);
        self.jump_back(&[0x0f, 0x82], top) // jb
    }

    fn jump_back(&mut self, opcode: &[u8], target: u32) -> &mut Self {
        self.emit(opcode);
        let after = self.here() + 4;
        self.long(target.wrapping_sub(after));
        self
    }

    /// Copies bytes to guest memory.
    pub(crate) fn place(&mut self, gpa: u32, content: &[u8]) -> &mut Self {
        let length = u32::try_from(content.len()).unwrap();
        self.emit(&[0xe9]); // jmp over the content
        self.long(length);
        let source = self.here();
        self.emit(content);
        self.emit(&[0xbe]); // mov esi, source
        self.long(source);
        self.emit(&[0xbf]); // mov edi, gpa
        self.long(gpa);
        self.ecx(length);
        self.raw(&[0xfc, 0xf3, 0xa4]) // cld; rep movsb
    }

    /// Ends the VM by a triple fault, with `text` as the last words, unless `EAX & mask` is `want`.
    pub(crate) fn expect(&mut self, mask: u32, want: u32, text: &str) -> &mut Self {
        self.emit(&[0x25]); // and eax, mask
        self.long(mask);
        self.emit(&[0x3d]); // cmp eax, want
        self.long(want);
        let mut fail = Self::default();
        fail.print(text).triple_fault();
        self.emit(&[0x0f, 0x84]); // je over the failure
        self.long(u32::try_from(fail.bytes.len()).unwrap());
        self.raw(&fail.bytes)
    }

    /// Ends the VM by a triple fault, with `text` as the last words, if EAX is this value.
    pub(crate) fn forbid(&mut self, value: u32, text: &str) -> &mut Self {
        let mut fail = Self::default();
        fail.print(text).triple_fault();
        self.emit(&[0x3d]); // cmp eax, value
        self.long(value);
        self.emit(&[0x0f, 0x85]); // jne over the failure
        self.long(u32::try_from(fail.bytes.len()).unwrap());
        self.raw(&fail.bytes)
    }

    /// Runs the body until EAX has one of the bits, or for so often.
    pub(crate) fn until(
        &mut self,
        bits: u32,
        times: u32,
        body: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let mut inner = Self {
            counters: self.counters,
            ..Self::default()
        };
        let counter = COUNTERS + 4 * inner.counters;
        inner.counters += 1;
        self.set(counter, times);
        body(&mut inner);
        inner.emit(&[0xa9]); // test eax, bits
        inner.long(bits);
        inner.emit(&[0x75, 12]); // jnz over the next two
        inner.emit(&[0xff, 0x0d]);
        inner.long(counter);
        let length = u32::try_from(inner.bytes.len()).unwrap();
        inner.emit(&[0x0f, 0x85]);
        inner.long((length + 6).wrapping_neg());
        self.counters = inner.counters;
        self.raw(&inner.bytes)
    }

    /// Faults where no handler is.
    pub(crate) fn triple_fault(&mut self) -> &mut Self {
        self.emit(&[0x0f, 0x01, 0x1d]); // lidt of zeros
        self.long(0x4_8000);
        self.raw(&[0x0f, 0x0b])
    }

    /// Makes general protection faults skip an instruction of `length` bytes.
    pub(crate) fn skip_faults(&mut self, length: u8) -> &mut Self {
        const GDT: u32 = 0x4_0000;
        const IDT: u32 = 0x4_1000;
        const POINTERS: u32 = 0x4_2000;
        const HANDLER: u32 = 0x4_3000;
        let flat = |kind: u8| [0xff, 0xff, 0, 0, 0, kind, 0xcf, 0];
        let gdt = [[0; 8], flat(0x9b), flat(0x93)].concat();
        // add esp, 4; pop ebp; add esp, 8; add ebp, length; jmp ebp
        let handler = [
            0x83, 0xc4, 4, 0x5d, 0x83, 0xc4, 8, 0x83, 0xc5, length, 0xff, 0xe5,
        ];
        let [low, high, ..] = HANDLER.to_le_bytes();
        // For invalid opcodes, which push no error code, the handler begins later.
        let gate = |skip: u8| [low + skip, high, 8, 0, 0, 0x8e, (HANDLER >> 16) as u8, 0];
        let mut idt = [0; 8 * 14];
        idt[8 * 6..8 * 7].copy_from_slice(&gate(3));
        idt[8 * 13..].copy_from_slice(&gate(0));
        let pointer = |length: usize, base: u32| {
            let limit = u16::try_from(length - 1).unwrap();
            [&limit.to_le_bytes()[..], &base.to_le_bytes()].concat()
        };
        self.place(GDT, &gdt)
            .place(IDT, &idt)
            .place(HANDLER, &handler)
            .place(POINTERS, &pointer(gdt.len(), GDT))
            .place(POINTERS + 8, &pointer(idt.len(), IDT));
        self.emit(&[0x0f, 0x01, 0x15]); // lgdt
        self.long(POINTERS);
        self.emit(&[0x0f, 0x01, 0x1d]); // lidt
        self.long(POINTERS + 8);
        self.emit(&[0xea]); // jmp 8:next
        let next = self.here() + 6;
        self.long(next);
        self.emit(&[8, 0]);
        // mov eax, 16; mov ds, es, ss
        self.eax(16).raw(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0])
    }
}
