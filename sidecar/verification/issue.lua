-- Make a verification for a recipient, or find the one whose code still lives.
--
-- KEYS[1] current       string: the recipient's newest verification id
-- KEYS[2] verification  hash: the record to make if a new one is needed
--                       (its name ends with the id; all verifications of a recipient share KEYS' cluster slot)
-- ARGV[1] new id
-- ARGV[2] the recipient's hash
-- ARGV[3] channel
-- ARGV[4] the recipient, sealed
-- ARGV[5] how long until another message may be asked for, milliseconds
--
-- LIFE           life of the code, milliseconds
-- READABLE       how long the record is readable after that, milliseconds
-- ATTEMPTS       wrong tries that kill a code
-- RESEND         "same" or "rotate"
-- LONGEST        the longest that a code may live, milliseconds
-- WORTH_SENDING  with less to live than that, milliseconds, a code is not worth a message
--
-- Asked for again, a living code is sent again, so that a late first message still works. Three cases:
-- 1. half of its life or more is left: it keeps its end;
-- 2. less is left: it gets a whole life again, as far as LONGEST after it was made allows;
-- 3. too little would be left even so: it is replaced, for its message would be dead when it arrives.
--
-- Returns {id, life left in milliseconds, 1 if new else 0}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local old = redis.call('GET', KEYS[1])
if old then
  local key = KEYS[2]:sub(1, -#ARGV[1] - 1) .. old
  local record = redis.call('HMGET', key, 'expires', 'wrong', 'proof', 'made')
  local expires = tonumber(record[1] or 0)
  local alive = expires > now and tonumber(record[2] or 0) < ATTEMPTS and record[3] == 'code'
  if alive and RESEND == 'same' then
    if expires - now < LIFE / 2 then
      expires = math.max(expires, math.min(now + LIFE, (tonumber(record[4]) or now) + LONGEST))
    end
    local left = expires - now
    if left >= math.min(LIFE / 2, WORTH_SENDING) then
      redis.call('HSET', key, 'status', 'queued', 'reason', '', 'again', now + tonumber(ARGV[5]),
        'expires', expires)
      redis.call('PEXPIRE', key, left + READABLE)
      redis.call('PEXPIRE', KEYS[1], left)
      return {old, left, 0}
    end
  end
  if alive then
    -- Replaced: its code is dead from now on.
    redis.call('HSET', key, 'expires', now, 'replaced', 1)
  end
end

redis.call('HSET', KEYS[2], 'to', ARGV[2], 'sealed', ARGV[4], 'channel', ARGV[3], 'status', 'queued', 'proof', 'code',
  'wrong', 0, 'made', now, 'expires', now + LIFE, 'again', now + tonumber(ARGV[5]))
redis.call('PEXPIRE', KEYS[2], LIFE + READABLE)
redis.call('SET', KEYS[1], ARGV[1], 'PX', LIFE)
return {ARGV[1], LIFE, 1}
