// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Heads of transparency logs and consent words, each under whoever wrote it. Nobody owns the contract, nothing in it can
/// be replaced, and no writer can touch what another wrote. It holds opaque values only.
///
/// Storage layout, which offline verifiers rely on: `heads` is slot 0 (root at the struct's slot, size in the next one's
/// low 8 bytes), `words` is slot 1.
contract HieBridgeLedger {
    struct Head {
        bytes32 root;
        uint64 size;
    }

    struct Anchor {
        bytes32 log;
        uint64 size;
        bytes32 root;
    }

    struct ConsentWrite {
        bytes32 handle;
        bytes32 word;
    }

    /// The newest anchored head by writer and log; the size never falls, and a size keeps its root.
    mapping(address writer => mapping(bytes32 log => Head)) public heads;

    /// The consent word by writer and handle: status in the highest byte (0 none, 1 granted, 2 revoked), then a version of
    /// 4 bytes. Once revoked, a word never changes.
    mapping(address writer => mapping(bytes32 handle => bytes32)) public words;

    event Anchored(address indexed writer, bytes32 indexed log, uint64 size, bytes32 root);
    event ConsentSet(address indexed writer, bytes32 indexed handle, bytes32 word);

    error HeadBelow(bytes32 log, uint64 stands, uint64 offered);
    error HeadBeside(bytes32 log, uint64 size);
    error StatusUnknown(bytes32 handle);

    uint8 private constant GRANTED = 1;
    uint8 private constant REVOKED = 2;

    /// Anchors one head of the sender's.
    function anchor(bytes32 log, uint64 size, bytes32 root) external {
        _anchor(log, size, root);
    }

    /// Anchors several heads of the sender's, all or none.
    function anchorAll(Anchor[] calldata anchors) external {
        for (uint256 i = 0; i < anchors.length; ++i) {
            _anchor(anchors[i].log, anchors[i].size, anchors[i].root);
        }
    }

    /// Writes consent words of the sender's. One that a newer or a revoked word bars is passed over, so that it holds up no
    /// other; what stands afterwards is read from `words`.
    function setConsents(ConsentWrite[] calldata writes) external {
        mapping(bytes32 => bytes32) storage mine = words[msg.sender];
        for (uint256 i = 0; i < writes.length; ++i) {
            bytes32 handle = writes[i].handle;
            bytes32 word = writes[i].word;
            uint8 status = uint8(word[0]);
            if (status != GRANTED && status != REVOKED) revert StatusUnknown(handle);
            bytes32 stands = mine[handle];
            if (stands != 0) {
                if (uint8(stands[0]) == REVOKED) continue;
                if (status == GRANTED && _version(word) <= _version(stands)) continue;
            }
            mine[handle] = word;
            emit ConsentSet(msg.sender, handle, word);
        }
    }

    function _anchor(bytes32 log, uint64 size, bytes32 root) private {
        Head storage head = heads[msg.sender][log];
        uint64 stands = head.size;
        if (size < stands || size == 0) revert HeadBelow(log, stands, size);
        if (size == stands) {
            if (head.root != root) revert HeadBeside(log, size);
            return;
        }
        head.root = root;
        head.size = size;
        emit Anchored(msg.sender, log, size, root);
    }

    function _version(bytes32 word) private pure returns (uint32) {
        return uint32(uint256(word) >> 216);
    }
}
