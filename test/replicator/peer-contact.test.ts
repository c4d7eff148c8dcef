/**
 * What a mirror on another node may say when nobody asked, or nobody waits any more. Method: a contact over a link that the test
 * plays.
 */
import { expect, it } from 'vitest';
import type { BlockferryError } from '../../src/io/errors.ts';
import { FrameKind, type FrameHeader, type Link } from '../../src/replicator/link/link-types.ts';
import { PeerContact, type PeerTalk } from '../../src/replicator/contact/peer-contact.ts';

const talk: PeerTalk = { control: () => {}, frame: () => {}, drained: () => {}, lost: () => {} };

function contactAt(): { contact: PeerContact; ends: string[]; answer: () => boolean } {
  const ends: string[] = [];
  const link = {
    peer: 'beta',
    start: () => {},
    destroy: (error: BlockferryError) => ends.push(error.code),
  };
  const contact = new PeerContact({ link: link as unknown as Link } as never);
  const answer = (): boolean => {
    let released = false;
    const header = { kind: FrameKind.DIFFERS, epoch: 7, index: 0 } as FrameHeader;
    const payload = { buffer: Buffer.alloc(1), length: 1, release: () => void (released = true) };
    contact.frame(header, payload);
    return released;
  };
  return { contact, ends, answer };
}

it('an answer that nobody asked for ends the link', () => {
  const { answer, ends } = contactAt();
  expect(answer()).toBe(true);
  expect(ends).toEqual(['LINK_PROTOCOL']);
});

it('an answer to who waits no more is dropped', () => {
  const { contact, answer, ends } = contactAt();
  contact.converse(talk);
  contact.silence(talk);
  expect(answer()).toBe(true);
  expect(ends).toEqual([]);
  expect(contact.frame({ kind: FrameKind.DATA } as FrameHeader, null)).toBe(undefined);
  expect(ends).toEqual(['LINK_PROTOCOL']);
});
