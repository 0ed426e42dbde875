-- Move a verification's status, if the move is allowed.
--
-- KEYS[1] verification  hash
-- ARGV[1] the new status
-- ARGV[2] why, in the API's words; "" for none
-- ARGV[3] "1" when what the message had cost is given back, so that another may be asked for at once; else "0"
-- ARGV[4] the statuses it may follow, a space before and after each
--
-- Returns 1 if moved, else 0.

local status = redis.call('HGET', KEYS[1], 'status')
if not status or not ARGV[4]:find(' ' .. status .. ' ', 1, true) then
  return 0
end
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'reason', ARGV[2])
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'again', 0)
end
return 1
