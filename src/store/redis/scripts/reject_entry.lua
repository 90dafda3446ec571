-- Makes a dead letter of an entry that is no task. Other entries are not touched.
--@keys stream dead_letters retry_counts
--@args group entry letter_head letter_tail
-- retry_counts: the Python program's counts of reclaims by entry
-- letter_head, letter_tail: the JSON around the entry's data
-- Reply: 1 done; 0 the entry is not pending any more
if not entry_holder(stream, group, entry) then return 0 end
-- before any other write, because it can fail: without its dead letter nothing is acknowledged
append_dead_letter(dead_letters, stream, entry, letter_head, letter_tail, false)
redis.call('XACK', stream, group, entry)
redis.call('HDEL', retry_counts, entry)
delete_if_single_group(stream, entry)
return 1
